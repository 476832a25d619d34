"""``parity suite``: runs the standard cases. Gives a report for each, and a verdict for each phase."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from parity.cases.case import Case
from parity.cases.standard import standard_suite
from parity.cli import console as view
from parity.cli.command import finish, here, say_annotations
from parity.cli.progress import progress_bar
from parity.cli.suite_options import SuiteOptions, chosen_of_suite
from parity.documents.folders import report_folder
from parity.documents.run import write_run
from parity.documents.suite import suite_document
from parity.engines.device import describe_device, use_device
from parity.milestones.keys import code_digest, versions
from parity.milestones.suite import MadeWith, run_suite
from parity.runs.case_run import CaseRun
from parity.runs.loader import Loader
from reports.staging import Staged
from reports.write import write_report


def suite(options: SuiteOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = use_device(options.device, options.dtype)
    described = describe_device(device)
    every = standard_suite()
    selected = chosen_of_suite(every, options)
    cases = selected if options.shard is None else options.shard.mine(selected)
    # Shards of other devices are not merged.
    on = {} if described is None else {"device": described.get("model", described["name"])}
    made_with = MadeWith(code_digest(), {**versions(), **on}, options.dtype)
    folder = report_folder(options.out, "suite")
    start = time.perf_counter()
    environment = here(threads=torch.get_num_threads(), device=described)
    with Staged(folder) as staged, progress_bar(len(cases), quiet=options.as_json) as step:
        begun: set[str] = set()

        def progress(case: Case, _what: str) -> None:
            if case.name not in begun:
                begun.add(case.name)
                step(f"{case.name}: {case.title}")

        def finished(run: CaseRun) -> str:
            place = f"cases/{run.case.name}"
            write_run(run, staged.work / place, environment=environment)
            return f"{place}/report.html"

        loader = Loader(device=device)
        summaries = run_suite(cases, loader, dtype=options.dtype, progress=progress, finished=finished)
        seconds = round(time.perf_counter() - start, 3)
        checkpoints = {case.checkpoint.label: loader.digest(loader.checkpoint(case.checkpoint)) for case in cases}
        document = suite_document(
            summaries, every, environment=environment, seconds=seconds, made_with=made_with.with_(checkpoints),
            selected=[case.name for case in selected], shard=options.shard,
        )  # fmt: skip
        write_report(document, staged.work)
    html = folder / "report.html"
    code = finish(document, lambda console: _show(console, document, html), as_json=options.as_json)
    if options.annotations:
        say_annotations(document, as_json=options.as_json)
    return code


def _show(console: Console, document: dict[str, Any], html: Path) -> None:
    for table in view.suite_tables(document):
        console.print(table)
    totals, verdict = document["totals"], document["verdict"]
    console.print(
        f"{totals['ran']} of {totals['cases']} cases ran, {totals['seams_compared']} seams and "
        f"{totals['rows_compared']} rows compared, {totals['not_compared']} seams not compared, "
        f"{totals['forwards']} forwards, {totals['seconds']:.0f} s"
    )
    console.print(view.verdict_line(verdict), soft_wrap=True)
    console.print(view.plain(f"report: {html}"), soft_wrap=True)
