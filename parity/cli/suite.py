"""``parity suite``: the standard cases, a report each, and a verdict per phase."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from parity.cli import console as view
from parity.cli.output import Staged, report_folder, write_run
from parity.cli.run import describe_case, describe_checkpoint
from parity.core.errors import ParityError
from parity.core.verdict import Verdict, combine
from parity.environment import environment
from parity.qwen3vl.blind import blind_to
from parity.qwen3vl.cases import PHASES, Case, standard_suite
from parity.qwen3vl.document import CaseSummary, Side, run_document, suite_document
from parity.qwen3vl.heatmaps import heat_maps
from parity.qwen3vl.suite import CaseRun, phase_verdicts, run_suite
from parity.qwen3vl.workbench import Workbench
from reports.write import write_report


@dataclass(frozen=True)
class SuiteOptions:
    """What ``parity suite`` was asked for; without cases and phases, everything."""

    cases: tuple[str, ...]
    phases: tuple[int, ...]
    dtype: str
    out: Path | None
    as_json: bool
    threads: int | None


def suite(options: SuiteOptions) -> int:
    """Carry the command out; returns the exit code of the verdict."""
    if options.threads:
        torch.set_num_threads(options.threads)
    every = standard_suite()
    cases = _chosen(every, options)
    folder = report_folder(options.out, "suite")
    bench = Workbench()
    start = time.perf_counter()
    surroundings = environment(command=["parity", *sys.argv[1:]], seed=0, threads=torch.get_num_threads())
    with Staged(folder) as staged, view.steps(len(cases), quiet=options.as_json) as step:
        begun: set[str] = set()

        def progress(case: Case, _what: str) -> None:
            if case.name not in begun:
                begun.add(case.name)
                step(f"{case.name}: {case.title}")

        def finished(run: CaseRun, summary: CaseSummary) -> CaseSummary:
            place = staged.work / "cases" / run.case.name
            _write_case(run, bench, surroundings, place)
            return replace(summary, report=f"cases/{run.case.name}/report.html")

        summaries = run_suite(cases, bench, dtype=options.dtype, progress=progress, finished=finished)
        phases = phase_verdicts(summaries, every)
        verdict, reason = _verdict(summaries, cases, every)
        document = suite_document(
            summaries,
            phases,
            environment=surroundings,
            verdict=verdict,
            reason=reason,
            seconds=round(time.perf_counter() - start, 3),
        )
        write_report(document, staged.work)
    with view.printing() as console:
        if options.as_json:
            click.echo(json.dumps(document, allow_nan=False))
        else:
            _show(console, document, folder / "report.html")
    return verdict.exit_code


def _chosen(every: Sequence[Case], options: SuiteOptions) -> list[Case]:
    names = {case.name for case in every}
    unknown = [name for name in options.cases if name not in names]
    if unknown:
        raise ParityError(f"there is no case {', '.join(unknown)}; the suite has {', '.join(sorted(names))}")
    chosen = [
        case
        for case in every
        if (not options.cases or case.name in options.cases) and (not options.phases or case.phase in options.phases)
    ]
    if not chosen:
        raise ParityError(
            f"no case is left: {', '.join(options.cases)} is not in phase {', '.join(map(str, options.phases))}; "
            "leave --phase out"
        )
    return chosen


def _verdict(summaries: Sequence[CaseSummary], cases: Sequence[Case], every: Sequence[Case]) -> tuple[Verdict, str]:
    verdict = combine([summary.judgement.verdict for summary in summaries])
    failed = [summary.name for summary in summaries if summary.judgement.verdict is not Verdict.PARITY]
    if failed:
        return verdict, f"{len(failed)} of {len(summaries)} cases failed: {', '.join(failed)}"
    if len(cases) < len(every):
        return Verdict.INCOMPLETE, f"only {len(cases)} of {len(every)} cases were asked for; those are at parity"
    return verdict, f"all {len(summaries)} cases of all {len(PHASES)} phases are at parity"


def _write_case(run: CaseRun, bench: Workbench, surroundings: dict[str, Any], folder: Path) -> None:
    case, inputs, yardstick = run.case, run.inputs, run.yardstick
    config = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    if inputs is None or yardstick is None:
        section = _weights_section(case)
        maps, floor_runs = [], ["the same sum, one 2-D convolution per frame"]
        dtype = case.checkpoint.dtype
        reference = Side("checkpoint files and torch.nn.Conv3d", str(torch.__version__), dtype)
        subject = Side("port", "its own tensors", dtype)
    else:
        processor = bench.processor(run.folder, yardstick.engine.dtype)
        texts = [processor.decode(ids) for ids in yardstick.tokens.tolist()]
        section = describe_case(case, inputs, yardstick, texts)
        maps, floor_runs = heat_maps(inputs, run.result.findings), yardstick.runs
        engine = yardstick.engine
        reference = Side(engine.name, engine.detail, engine.dtype)
        subject = Side("port", "", engine.dtype)
    document = run_document(
        run.result,
        environment=surroundings,
        subject=subject,
        reference=reference,
        checkpoint=describe_checkpoint(run.folder, case.checkpoint, config),
        case=section,
        floor_runs=floor_runs,
        maps=maps,
        performance=None,
        blind_to=blind_to(case, inputs, yardstick.trace if yardstick else None, subject.dtype),
    )
    write_run(document, maps, folder)


def _weights_section(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "title": case.title,
        "phase": case.phase,
        "phase_title": PHASES[case.phase],
        "mode": case.mode,
        "batch": 0,
        "padding_side": None,
        "rows": [],
        "steps": ["weights"],
        "generated": [],
    }


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
