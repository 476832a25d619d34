"""The standard suite: every case, its phase, and a verdict per phase. A case that did not run is no pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parity.core.errors import ParityError
from parity.core.verdict import Judgement, Verdict, combine
from parity.qwen3vl.cases import PHASES, Case
from parity.qwen3vl.document import CaseSummary
from parity.qwen3vl.engines import PortEngine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.run import RunResult, failed_to_load, run_subject
from parity.qwen3vl.weights_check import check_weights
from parity.qwen3vl.workbench import Workbench
from parity.qwen3vl.yardstick import Progress, Yardstick, measure_yardstick
from port import PortError
from reference.errors import ReferenceModelError


@dataclass
class CaseRun:
    """A case that ran: what its report needs beside the result."""

    case: Case
    folder: Any
    result: RunResult
    inputs: CaseInputs | None = None
    yardstick: Yardstick | None = None
    forwards: int = 0


def run_case(case: Case, bench: Workbench, *, dtype: str, progress: Progress) -> CaseRun:
    """Run the port through a case. Raises ParityError and the rooms' own errors when it cannot be run at all."""
    folder = bench.checkpoint(case.checkpoint)
    if case.check == "weights":
        progress("weights")
        result = check_weights(folder, case.checkpoint.dtype, bench.reference(folder, "float32"))
        return CaseRun(case, folder, result)
    inputs = bench.inputs(case, folder, dtype)
    yardstick = measure_yardstick(
        inputs, bench.reference(bench.for_reference(case.checkpoint), dtype), progress=progress
    )
    try:
        subject = PortEngine(bench.port(folder, dtype), chunk=case.chunk)
        front_end = bench.port_front(folder)
    except PortError as error:
        # The checkpoint is sound, the reference has just run on it: refusing it is the port's failure.
        result = failed_to_load(yardstick, error)
    else:
        result = run_subject(inputs, subject, yardstick, front_end=front_end, progress=progress)
    steps = case.decode_steps + 1
    # The yardstick once; every floor run and the subject twice, on their own and part by part.
    forwards = steps + 2 * len(yardstick.runs) * steps + 2 * (steps + inputs.chunks - 1)
    return CaseRun(case, folder, result, inputs, yardstick, forwards)


def run_suite(
    cases: Sequence[Case],
    bench: Workbench,
    *,
    dtype: str,
    progress: Callable[[Case, str], None],
    finished: Callable[[CaseRun, CaseSummary], CaseSummary],
) -> list[CaseSummary]:
    """Run the cases in order. One that cannot be run becomes an INVALID line with its error, and the rest go on.

    ``finished`` may write a case's report and returns the summary with its place.
    """
    summaries = []
    for case in cases:
        start = time.perf_counter()
        try:
            run = run_case(case, bench, dtype=dtype, progress=lambda what, case=case: progress(case, what))  # type: ignore[misc]
        except (ParityError, PortError, ReferenceModelError) as error:
            judgement = Judgement(Verdict.INVALID, f"the case did not run: {error}", None, 0, 0, 0)
            summaries.append(CaseSummary(case.name, case.title, case.phase, judgement, [], 0, _since(start), None))
            continue
        summary = CaseSummary(
            case.name,
            case.title,
            case.phase,
            run.result.judgement,
            run.result.findings,
            run.forwards,
            _since(start),
            None,
        )
        summaries.append(finished(run, summary))
    return summaries


def phase_verdicts(summaries: Sequence[CaseSummary], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One line per phase over ``cases``, the cases that the phase needs; those that did not run count against it."""
    lines = []
    for phase, title in PHASES.items():
        needed = [case.name for case in cases if case.phase == phase]
        done = {summary.name: summary for summary in summaries if summary.phase == phase}
        ran = [name for name in needed if name in done and done[name].judgement.seams_compared]
        verdict = combine([done[name].judgement.verdict for name in needed if name in done])
        absent = [name for name in needed if name not in ran]
        if absent and verdict is Verdict.PARITY:
            verdict = Verdict.INCOMPLETE
        failed = [name for name in ran if done[name].judgement.verdict is not Verdict.PARITY]
        lines.append(
            {
                "phase": phase,
                "title": title,
                "verdict": verdict.name,
                "cases": len(needed),
                "ran": len(ran),
                "reason": _phase_reason(failed, absent),
            }
        )
    return lines


def _phase_reason(failed: Sequence[str], absent: Sequence[str]) -> str:
    parts = []
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    if absent:
        parts.append(f"not run: {', '.join(absent)}")
    return "; ".join(parts) or "every case at parity"


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
