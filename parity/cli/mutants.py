"""``parity mutants``: proof of power. Known mistakes are planted in the port, and every one must be caught."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich import box
from rich.table import Table

from parity.cli import console as view
from parity.cli.output import report_folder
from parity.core.errors import ParityError
from parity.core.gates import DEFAULT_GATE
from parity.environment import environment
from parity.qwen3vl.kill_matrix import Line, Matrix, kill_matrix, smallest_cover
from parity.qwen3vl.mutants.not_planted import NOT_PLANTED
from parity.qwen3vl.mutants.registry import chosen
from parity.qwen3vl.mutants.trials import DEFAULT, Trial, trials
from parity.qwen3vl.outcomes import Outcome
from parity.qwen3vl.workbench import Workbench
from reports.mutants import write_matrix

EVERY = "all"
_FATES = {"caught": "green", "survived": "bold red", "invisible": "dim", "not exposed": "bold yellow"}
_JUSTIFY: dict[str, Literal["left", "right"]] = {"exposed by": "right"}


def mutants(*, cases: tuple[str, ...], ids: tuple[str, ...], dtype: str, out: Path | None, as_json: bool) -> int:
    """Carry the command out; 0 where every mutant that changes the function is caught, else 1."""
    planted, tried = chosen(ids), _trials(cases)
    folder = report_folder(out, "mutants")
    # A forward pass takes one thread here, see kill_matrix.
    surroundings = environment(command=["parity", *sys.argv[1:]], seed=0, threads=1)
    start = time.perf_counter()
    with view.steps(len(tried) * (len(planted) + 1), quiet=as_json) as step:
        matrix = kill_matrix(planted, tried, Workbench(), dtype=dtype, progress=step)
    document = matrix_document(matrix, tried, environment=surroundings, seconds=round(time.perf_counter() - start, 1))
    files = write_matrix(document, folder)
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
    else:
        _show(matrix, document, files)
    return 0 if matrix.proven else 1


def _trials(names: Sequence[str]) -> list[Trial]:
    every = trials()
    wanted = list(every) if EVERY in names else list(dict.fromkeys(names or DEFAULT))
    unknown = [name for name in wanted if name not in every]
    if unknown:
        raise ParityError(f"there is no case {', '.join(unknown)} for mutants; there are {EVERY}, {', '.join(every)}")
    return [every[name] for name in wanted]


def matrix_document(
    matrix: Matrix, tried: Sequence[Trial], *, environment: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The matrix as a JSON-able document, see ``reports.mutants``."""
    cover = smallest_cover(matrix)
    counted = {fate: len(matrix.of(fate)) for fate in ("caught", "survived", "invisible", "not exposed")}
    return {
        "schema_version": "1.0",
        "kind": "mutants",
        "environment": environment,
        "dtype": matrix.dtype,
        "gate": {"rule": DEFAULT_GATE.describe(), "m": DEFAULT_GATE.m, "ulps": DEFAULT_GATE.ulps},
        "totals": {
            "mutants": len(matrix.lines),
            "real": sum(line.mutant.real for line in matrix.lines),
            "caught": counted["caught"],
            "survived": counted["survived"],
            "invisible": counted["invisible"],
            "not_exposed": counted["not exposed"],
            "kill_rate": matrix.kill_rate,
            "localised": sum(line.localised for line in matrix.of("caught")),
            "localisation_rate": matrix.localisation_rate,
            "proven": matrix.proven,
            "seconds": seconds,
        },
        "cover": {"trials": cover, "forwards": sum(matrix.trials[name] for name in cover)},
        "trials": [
            {"name": trial.name, "title": trial.case.title, "forwards": matrix.trials[trial.name]} for trial in tried
        ],
        "mutants": [_line(line) for line in matrix.lines],
        "not_planted": NOT_PLANTED,
    }


def _line(line: Line) -> dict[str, Any]:
    mutant, first = line.mutant, _first(line)
    return {
        "id": mutant.id,
        "title": mutant.title,
        "component": mutant.component,
        "source": mutant.source,
        "real": mutant.real,
        "seam": mutant.seam,
        "step": mutant.step,
        "dtypes": list(mutant.dtypes),
        "invisible": mutant.invisible,
        "fate": line.fate,
        "localised": line.localised,
        "first_seam": first.seam if first else None,
        "first_step": first.step if first else None,
        "caught_by": [outcome.trial for outcome in line.caught_by],
        "missed_by": [outcome.trial for outcome in line.missed_by],
        "outcomes": {outcome.trial: _outcome(outcome) for outcome in line.outcomes},
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "state": outcome.state,
        "expected": outcome.expected,
        "seam": outcome.seam,
        "step": outcome.step,
        "worst": outcome.worst,
        # JSON has no infinity; null where nothing was measured.
        "floors": outcome.floors if outcome.floors is not None and math.isfinite(outcome.floors) else None,
        "identical": outcome.identical,
        "error": outcome.error,
    }


def _first(line: Line) -> Outcome | None:
    """Where it was caught; a place other than the planted one where there is any."""
    caught = line.caught_by
    return next((outcome for outcome in caught if outcome.state == "elsewhere"), caught[0] if caught else None)


def _show(matrix: Matrix, document: dict[str, Any], files: dict[str, Path]) -> None:
    console, totals, cover = view.make_console(), document["totals"], document["cover"]
    console.print(_table(matrix))
    console.print(
        f"{totals['mutants']} mutants ({totals['real']} real bugs) on {len(document['trials'])} cases, {matrix.dtype}, "
        f"{totals['seconds']:.0f} s: {totals['caught']} caught, {totals['survived']} survived, "
        f"{totals['not_exposed']} not exposed by these cases, {totals['invisible']} invisible in {matrix.dtype}"
    )
    console.print(
        f"kill rate {100 * totals['kill_rate']:.1f} %; first divergence at the planted seam "
        f"{100 * totals['localisation_rate']:.1f} %"
    )
    console.print(f"smallest set of cases found: {', '.join(cover['trials'])} ({cover['forwards']} forwards)")
    console.print(f"{len(NOT_PLANTED)} real bugs have no place in the port, reasons in {files['json'].name}")
    console.print(f"files: {', '.join(str(path) for path in files.values())}")


def _table(matrix: Matrix) -> Table:
    """``exposed by``: how many of the cases that have what the mistake needs caught it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("mutant", "component", "real", "fate", "exposed by", "planted at", "first divergence, or proof"):
        table.add_column(name, no_wrap=name in ("mutant", "planted at"), justify=_JUSTIFY.get(name, "left"))
    for line in matrix.lines:
        style = _FATES[line.fate]
        table.add_row(
            line.mutant.id,
            line.mutant.component,
            "real" if line.mutant.real else "",
            f"[{style}]{line.fate}[/{style}]",
            f"{sum(outcome.expected for outcome in line.caught_by)}/{sum(o.expected for o in line.outcomes)}",
            line.mutant.seam,
            _place(line),
        )
    return table


def _place(line: Line) -> str:
    first = _first(line)
    if first is not None:
        place = f"{first.seam} ({first.step})"
        return place if line.localised else f"[yellow]{place}, {first.trial}[/yellow]"
    ran = [outcome for outcome in line.outcomes if outcome.state == "survived"]
    if ran and all(outcome.identical for outcome in ran):
        return "every reading bit-equal to the sound port's"
    worst = max((outcome.worst or 0.0 for outcome in ran), default=0.0)
    floors = max((outcome.floors or 0.0 for outcome in ran), default=0.0)
    return f"at most {worst:.2g} of a gate, {floors:.2g} floors alone" if ran else "no case that it applies to"
