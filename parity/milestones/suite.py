"""The standard suite: every case with its phase, and a verdict per phase. A case that did not run does not pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parity.cases.case import Case, Checkpoint
from parity.core.compare import Finding
from parity.core.errors import ParityError
from parity.core.verdict import Judgement, Verdict, combine
from parity.milestones.phases import PHASES
from parity.runs.case_run import CaseRun, run_case
from parity.runs.loader import Loader
from port import PortError
from reference.errors import ReferenceModelError


@dataclass(frozen=True)
class CaseSummary:
    """One line of a suite. ``report`` is the path of the case's report, relative to the suite's report.

    ``error`` is what the subject raised, or why the case could not be run.
    """

    case: Case
    judgement: Judgement
    findings: Sequence[Finding]
    forwards: int
    seconds: float
    report: str | None = None
    error: str | None = None

    @property
    def ran(self) -> bool:
        """Return whether anything was compared."""
        return self.judgement.seams_compared > 0


def summary_of(line: Mapping[str, Any], case: Case) -> CaseSummary:
    """Return the summary of a case from its line in a report. Its findings stay in the report of the case."""
    counts = (line["seams_expected"], line["seams_compared"], line["rows_compared"])
    judgement = Judgement(Verdict[line["verdict"]], line["reason"], None, *counts)
    return CaseSummary(case, judgement, [], 0, line["seconds"], line["report"])


@dataclass(frozen=True)
class MadeWith:
    """What a suite's figures belong to; shards are merged only if it is the same. ``checkpoints``: sha256 by name."""

    code: str
    versions: Mapping[str, str]
    dtype: str
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def with_(self, checkpoints: Mapping[str, str]) -> MadeWith:
        """Return the same with these checkpoints."""
        return replace(self, checkpoints=dict(sorted(checkpoints.items())))


@dataclass(frozen=True)
class PhaseVerdict:
    """The verdict of a phase over its cases. It is never PARITY if one of them did not run."""

    phase: int
    title: str
    verdict: Verdict
    cases: int
    ran: int
    reason: str


def by_checkpoint(cases: Sequence[Case]) -> list[Case]:
    """Return the cases so that all of a checkpoint follow each other, and it is loaded once."""
    groups: dict[Checkpoint, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.checkpoint, []).append(case)
    return [case for group in groups.values() for case in group]


def run_one(case: Case, loader: Loader, *, dtype: str, finished: Callable[[CaseRun], str | None]) -> CaseSummary:
    """Run a case, and return its line. A case that cannot run becomes an INVALID line with its error.

    ``finished`` may write the case's report, and returns its path.
    """
    start = time.perf_counter()
    try:
        run = run_case(case, loader, dtype=dtype)
    except (ParityError, PortError, ReferenceModelError) as error:
        return not_run(case, str(error), _since(start))
    except (OSError, MemoryError):
        raise  # the machine is at fault, and the other cases would fail too
    except Exception as error:
        # A defect of the harness, or of something that it uses. The other cases still run.
        text = f"{type(error).__name__}: {error}; `parity --debug run --case {case.name}` shows where"
        return not_run(case, text, _since(start))
    seconds = _since(start)
    judgement, findings = run.result.judgement, run.result.findings
    return CaseSummary(case, judgement, findings, run.forwards, seconds, finished(run), run.result.error)


def not_run(case: Case, why: str, seconds: float = 0.0) -> CaseSummary:
    """Return the line of a case that could not be run."""
    judgement = Judgement(Verdict.INVALID, f"the case did not run: {why}", None, 0, 0, 0)
    return CaseSummary(case, judgement, [], 0, seconds, error=why)


def suite_verdict(summaries: Sequence[CaseSummary], every: Sequence[Case]) -> tuple[Verdict, str]:
    """Return verdict and reason over the selected cases. INCOMPLETE if they are not ``every`` case of the suite."""
    verdict = combine([summary.judgement.verdict for summary in summaries])
    failed = [summary.case.name for summary in summaries if summary.judgement.verdict is not Verdict.PARITY]
    if failed:
        return verdict, f"{len(failed)} of {len(summaries)} cases failed: {', '.join(failed)}"
    if len(summaries) < len(every):
        return Verdict.INCOMPLETE, f"only {len(summaries)} of {len(every)} cases were selected; those are at parity"
    return verdict, f"all {len(summaries)} cases of the suite are at parity"


def phase_verdicts(summaries: Sequence[CaseSummary], cases: Sequence[Case]) -> list[PhaseVerdict]:
    """Return a verdict for each phase over its cases among ``cases``. A phase without cases is left to the sign-off."""
    needed = {phase: [case for case in cases if case.phase == phase] for phase in PHASES}
    return [_phase_verdict(phase, summaries, own) for phase, own in needed.items() if own]


def _phase_verdict(phase: int, summaries: Sequence[CaseSummary], needed: Sequence[Case]) -> PhaseVerdict:
    done = {summary.case.name: summary for summary in summaries if summary.case.phase == phase}
    ran = [case.name for case in needed if case.name in done and done[case.name].ran]
    absent = [case.name for case in needed if case.name not in ran]
    verdict = combine([done[case.name].judgement.verdict for case in needed if case.name in done])
    if absent and verdict is Verdict.PARITY:
        verdict = Verdict.INCOMPLETE
    failed = [name for name in ran if done[name].judgement.verdict is not Verdict.PARITY]
    return PhaseVerdict(phase, PHASES[phase], verdict, len(needed), len(ran), _reason(failed, absent))


def _reason(failed: Sequence[str], absent: Sequence[str]) -> str:
    parts = []
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    if absent:
        parts.append(f"not run: {', '.join(absent)}")
    return "; ".join(parts) or "every case at parity"


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
