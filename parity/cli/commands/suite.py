"""``parity suite``: runs the standard cases. Gives a report for each, and a verdict for each phase."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from parity.cases.case import Case
from parity.cases.standard import standard_suite
from parity.cli import console as view
from parity.cli.command import finish, here, say_annotations
from parity.cli.progress import progress_bar
from parity.cli.suite_options import SuiteOptions, chosen_of_suite
from parity.cli.workers import threads_of, workers_for
from parity.documents.folders import report_folder
from parity.documents.suite import whole_document
from parity.documents.suite_run import publish, run_cases
from parity.engines.device import describe_device, use_device
from parity.milestones.kept import Kept
from parity.milestones.keys import code_digest, versions
from parity.milestones.suite import MadeWith, summary_of
from parity.runs.loader import Loader
from reports.staging import Staged
from reports.write import write_report


def suite(options: SuiteOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    threads = threads_of(options.threads, options.where)
    described = describe_device(use_device(options.device, options.dtype))
    every = standard_suite()
    selected = chosen_of_suite(every, options)
    cases = selected if options.shard is None else options.shard.mine(selected)
    folder = report_folder(options.out, "suite")
    start = time.perf_counter()
    environment = here(threads=threads, device=described)
    with Staged(folder) as staged, progress_bar(len(cases), quiet=options.as_json) as step:
        with workers_for(options.where) as workers:
            workers.watch(step)
            made_with = _made_with(cases, options.dtype, described)
            kept = Kept(folder, fresh=options.fresh)
            results = run_cases(
                cases, workers, kept,
                made_with=made_with, device=options.device, threads=threads, environment=environment, published=folder,
            )  # fmt: skip
        document = whole_document(
            [result.line for result in results],
            [summary_of(result.line, case) for result, case in zip(results, cases, strict=True)],
            every,
            environment=environment,
            totals={
                "forwards": sum(result.forwards for result in results),
                "seconds": round(time.perf_counter() - start, 3),
            },
            made_with=asdict(made_with),
            selected=[case.name for case in selected],
            shard=None if options.shard is None else asdict(options.shard),
            reused=kept.reused,
        )
        publish(results, staged.work)
        write_report(document, staged.work)
    kept.published()
    html = folder / "report.html"
    code = finish(document, lambda console: _show(console, document, kept, html), as_json=options.as_json)
    if options.annotations:
        say_annotations(document, as_json=options.as_json)
    return code


def _made_with(cases: Sequence[Case], dtype: str, device: Mapping[str, str] | None) -> MadeWith:
    """Return what the results belong to. Checkpoints that do not exist are made, before several workers would."""
    loader = Loader()
    checkpoints = {case.checkpoint.label: loader.digest(loader.checkpoint(case.checkpoint)) for case in cases}
    # Shards and kept cases of other devices do not belong to this run.
    on = {} if device is None else {"device": device.get("model", device["name"])}
    return MadeWith(code_digest(), {**versions(), **on}, dtype).with_(checkpoints)


def _show(console: Console, document: dict[str, Any], kept: Kept, html: Path) -> None:
    for table in view.suite_tables(document):
        console.print(table)
    totals, verdict = document["totals"], document["verdict"]
    console.print(
        f"{totals['ran']} of {totals['cases']} cases ran, {totals['seams_compared']} seams and "
        f"{totals['rows_compared']} rows compared, {totals['not_compared']} seams not compared, "
        f"{totals['forwards']} forwards, {totals['seconds']:.0f} s"
    )
    view.show_kept(console, kept.reused, kept.stale, of=totals["cases"], what="cases")
    console.print(view.verdict_line(verdict), soft_wrap=True)
    console.print(view.plain(f"report: {html}"), soft_wrap=True)
