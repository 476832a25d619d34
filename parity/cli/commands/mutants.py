"""``parity mutants``: tests the gates. Known mistakes are planted in the port, and every one must be caught."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from parity.cases.registry import chosen_cases
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.progress import progress_bar
from parity.cli.workers import Where, workers_for
from parity.documents.folders import report_folder
from parity.documents.mutants import matrix_document
from parity.milestones.kept import Kept
from parity.milestones.kept_mutants import keep_outcomes, mutant_keys, outcomes_of
from parity.mutants.cases import ALL, DEFAULT
from parity.mutants.matrix import Matrix, MutantResult, matrix_of
from parity.mutants.registry import chosen
from parity.mutants.spread import spread_matrix
from reports.staging import Staged
from reports.write import write_report

_FATES = {"caught": "green", "survived": "bold red", "invisible": "dim", "not exposed": "bold yellow"}
_JUSTIFY: dict[str, Literal["left", "right"]] = {"exposed by": "right"}


def mutants(
    *,
    cases: tuple[str, ...],
    every_case: bool,
    ids: tuple[str, ...],
    dtype: str,
    out: Path | None,
    as_json: bool,
    fresh: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> int:
    """Run the command. Returns 0 if the port passes and each mutant that changes the results is caught, otherwise 1."""
    planted = chosen(ids)
    tried = chosen_cases(cases or (ALL if every_case else DEFAULT))
    folder = report_folder(out, "mutants")
    # A forward pass uses one thread here, see kill_matrix.
    environment = here(threads=1)
    start = time.perf_counter()
    with Staged(folder) as staged:
        kept = Kept(folder, fresh=fresh)
        steps = len(tried) * (len(planted) + 1)
        where = Where(workers, scheduler)
        with progress_bar(steps, quiet=as_json) as step, workers_for(where) as executor:
            executor.watch(step)
            keys = mutant_keys(tried, planted, dtype)
            earlier = {case.name: kept.take(case.name, keys[case.name], outcomes_of) for case in tried}
            found = spread_matrix(
                planted,
                tried,
                executor,
                dtype=dtype,
                earlier={name: on_case for name, on_case in earlier.items() if on_case is not None},
                finished=lambda case, on_case: keep_outcomes(kept, keys[case.name], on_case),
            )
        matrix = matrix_of(planted, found, dtype)
        seconds = round(time.perf_counter() - start, 1)
        document = matrix_document(matrix, tried, environment=environment, seconds=seconds, reused=kept.reused)
        write_report(document, staged.work)
    finish(document, lambda console: _show(console, matrix, document, folder, kept), as_json=as_json)
    return 0 if matrix.proven else 1


def _show(console: Console, matrix: Matrix, document: dict[str, Any], folder: Path, kept: Kept) -> None:
    totals, cover = document["totals"], document["cover"]
    console.print(_table(matrix))
    console.print(
        f"{totals['mutants']} mutants ({totals['real']} real bugs) on {len(document['cases'])} cases, {matrix.dtype}, "
        f"{totals['seconds']:.0f} s: {totals['caught']} caught, {totals['survived']} survived, "
        f"{totals['not_exposed']} not exposed by these cases, {totals['invisible']} invisible in {matrix.dtype}"
    )
    for name, why in matrix.broken.items():
        console.print(view.plain(f"{name}: {why}"), style="bold red", soft_wrap=True)
    console.print(
        f"kill rate {100 * totals['kill_rate']:.1f} %; first divergence at the planted seam "
        f"{100 * totals['localisation_rate']:.1f} %"
    )
    console.print(f"smallest set of cases found: {', '.join(cover['cases'])} ({cover['forwards']} forwards)")
    console.print(f"{len(document['not_planted'])} real bugs cannot be planted in the port; the report says why")
    view.show_kept(console, kept.reused, kept.stale, of=len(document["cases"]), what="cases")
    console.print(view.plain(f"report: {folder / 'report.html'}"), soft_wrap=True)


def _table(matrix: Matrix) -> Table:
    """Make the table. ``exposed by``: cases that caught the mistake, of those that have what it needs to show."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("mutant", "component", "real", "fate", "exposed by", "planted at", "first divergence, or evidence"):
        table.add_column(name, no_wrap=name in ("mutant", "planted at"), justify=_JUSTIFY.get(name, "left"))
    for result in matrix.results:
        style = _FATES[result.fate]
        exposed = sum(outcome.expected for outcome in result.caught_by)
        table.add_row(
            result.mutant.id,
            result.mutant.component,
            "real" if result.mutant.real else "",
            f"[{style}]{result.fate}[/{style}]",
            f"{exposed}/{sum(outcome.expected for outcome in result.outcomes)}",
            result.mutant.seam,
            _place(result),
        )
    return table


def _place(result: MutantResult) -> str:
    first = result.first
    if first is not None:
        place = f"{first.seam} ({first.step})"
        return place if result.localised else f"[yellow]{place}, {first.case}[/yellow]"
    ran = [outcome for outcome in result.outcomes if outcome.state == "survived"]
    if ran and all(outcome.identical for outcome in ran):
        return "every value is bit-equal to the correct port's"
    worst = max((outcome.worst or 0.0 for outcome in ran), default=0.0)
    floors = max((outcome.floors or 0.0 for outcome in ran), default=0.0)
    return f"at most {worst:.2g} of a gate, {floors:.2g} floors when isolated" if ran else "it applies to no case"
