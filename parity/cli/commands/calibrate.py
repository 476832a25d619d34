"""``parity calibrate``: measures the smallest m without a false alarm, and keeps the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from parity.cases.registry import chosen_cases
from parity.cases.standard import standard_suite
from parity.cli.command import here
from parity.cli.console import printing
from parity.cli.progress import progress_bar
from parity.cli.workers import Where, threads_of, workers_for
from parity.documents.calibration import calibration_document
from parity.kernels.registry import KERNELS, make_kernels
from parity.runs.calibration import planned
from parity.runs.spread import calibrate as measure
from reports.atomic import write_text


def calibrate(
    *,
    dtypes: tuple[str, ...],
    seeds: int,
    cases: tuple[str, ...],
    kernels: tuple[str, ...],
    out: Path,
    as_json: bool,
    workers: int | None = None,
    scheduler: str | None = None,
    threads: int | None = None,
) -> int:
    """Run the command. Returns 1 if a correct run needs a larger m than the project's gates have."""
    where = Where(workers, scheduler)
    each = threads_of(threads, where)
    environment = here(threads=each)
    named = chosen_cases(cases) or standard_suite()
    libraries = kernels or KERNELS
    for name in libraries:
        make_kernels(name)  # raises for a library that is not installed
    chosen = [case for case in named if "model" in case.stages]
    documents = []
    for dtype in dtypes:
        steps = len(planned(chosen, seeds))
        with progress_bar(steps, quiet=as_json) as step, workers_for(where) as executor:
            executor.watch(step)
            found = measure(chosen, executor, dtype=dtype, seeds=seeds, kernels=libraries, threads=each)
        document = calibration_document(found, chosen, dtype=dtype, seeds=seeds, environment=environment)
        write_text(out / f"calibration-{dtype}.json", text=json.dumps(document, indent=1) + "\n")
        documents.append(document)
    with printing():
        if as_json:
            click.echo(json.dumps(documents))
        else:
            _show(documents, out)
    alarms = [figures["false_alarms"] for document in documents for figures in document["comparisons"].values()]
    return 1 if any(alarms) else 0


def _show(documents: Sequence[dict[str, Any]], out: Path) -> None:
    for document in documents:
        click.echo(f"{document['dtype']}: {document['runs']} correct runs, {document['rows']} rows")
        for name, figures in document["comparisons"].items():
            click.echo(
                f"  {name}: smallest m without a false alarm {figures['smallest_m']:.3g}; "
                f"false alarms at m = {figures['m']:g}: {figures['false_alarms']}"
            )
    click.echo(f"data: {out}")
