"""``parity calibrate``: the smallest m without a false alarm, measured and kept as data.

The data say what ran and when, not on whose machine: they are meant to be published.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch

from parity.cli import console as view
from parity.core.gates import DEFAULT_GATE, ISOLATED_GATE
from parity.environment import environment
from parity.qwen3vl.calibration import Need, needs
from parity.qwen3vl.cases import Case, SeededCheckpoint, standard_suite
from parity.qwen3vl.workbench import Workbench
from parity.qwen3vl.yardstick import measure_yardstick
from reports.atomic import write_text

_WORST_SHOWN = 5
GATES = {"accumulated": DEFAULT_GATE, "isolated": ISOLATED_GATE}


def calibrate(*, dtypes: tuple[str, ...], seeds: int, cases: tuple[str, ...], out: Path, as_json: bool) -> int:
    """Carry the command out; 1 where a correct run needs more than the project's gates give."""
    surroundings = environment(command=["parity", *sys.argv[1:]], seed=0, threads=torch.get_num_threads())
    chosen = [case for case in standard_suite() if case.check == "forward" and (not cases or case.name in cases)]
    documents = []
    for dtype in dtypes:
        found = _measure(chosen, dtype, seeds)
        document = {
            "environment": {name: surroundings[name] for name in ("created", "python", "threads", "packages")},
            "dtype": dtype,
            "cases": [case.name for case in chosen],
            "seeds": list(range(seeds)),
            "ulps": DEFAULT_GATE.ulps,
            **_summary(found),
        }
        write_text(out / f"calibration-{dtype}.json", text=json.dumps(document, indent=1) + "\n")
        documents.append(document)
    if as_json:
        click.echo(json.dumps(documents))
    else:
        _show(documents, out)
    return 1 if any(figures["false_alarms"] for document in documents for figures in _figures(document)) else 0


def _figures(document: dict[str, Any]) -> list[dict[str, Any]]:
    return list(document["readings"].values())


def _show(documents: Sequence[dict[str, Any]], out: Path) -> None:
    console = view.make_console()
    for document in documents:
        console.print(f"{document['dtype']}: {document['runs']} correct runs, {document['rows']} rows")
        for reading, figures in document["readings"].items():
            console.print(
                f"  {reading}: smallest m without a false alarm {figures['smallest_m']:.3g}; "
                f"false alarms at m = {figures['m']:g}: {figures['false_alarms']}"
            )
    console.print(f"data: {out}")


def _measure(cases: Sequence[Case], dtype: str, seeds: int) -> list[Need]:
    found: list[Need] = []
    bench = Workbench()
    with view.steps(len(cases) * seeds, quiet=False) as step:
        for seed in range(seeds):
            for case in cases:
                step(f"{dtype}, seed {seed}, {case.name}")
                spec = case.checkpoint
                if isinstance(spec, SeededCheckpoint):
                    spec = replace(spec, seed=seed)
                elif seed:
                    continue  # there is but one
                folder = bench.checkpoint(spec)
                inputs = bench.inputs(replace(case, chunk=None), folder, dtype)
                model, port = bench.reference(folder, dtype), bench.port(folder, dtype)
                yardstick = measure_yardstick(inputs, model, progress=_silent)
                found += needs(inputs, yardstick, model=model, port=port, gate=DEFAULT_GATE, progress=_silent)
    return found


def _summary(found: Sequence[Need]) -> dict[str, Any]:
    """Runs are counted once, not once per reading."""
    readings = {}
    for reading, gate in GATES.items():
        worst = sorted((need for need in found if need.reading == reading), key=lambda need: need.m, reverse=True)
        readings[reading] = {
            "m": gate.m,
            "smallest_m": worst[0].m,
            "false_alarms": sum(need.m > gate.m for need in worst),
            "worst": [asdict(need) for need in worst[:_WORST_SHOWN]],
        }
    return {"runs": len(found) // len(GATES), "rows": sum(need.rows for need in found), "readings": readings}


def _silent(_what: str) -> None:
    pass
