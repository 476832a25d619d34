"""Running a subject through a case: every seam judged as it is produced, then a verdict. Data in, data out."""

from __future__ import annotations

from dataclasses import dataclass

from parity.core.compare import Comparison, Finding
from parity.core.gates import DEFAULT_GATE, ISOLATED_GATE, FloatGate
from parity.core.isolation import combine_readings
from parity.core.trace import Entry
from parity.core.verdict import Judgement, judge
from parity.qwen3vl.engines import Engine
from parity.qwen3vl.front import FrontEnd, FrontResult, judge_front
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.recorder import Recorder, both
from parity.qwen3vl.store import NOT_KEPT, TraceStore
from parity.qwen3vl.yardstick import Progress, Yardstick
from port import PortError


@dataclass
class RunResult:
    """``error`` is what the subject raised, where it did."""

    findings: list[Finding]
    judgement: Judgement
    gate: FloatGate
    error: str | None = None


def run_subject(
    inputs: CaseInputs,
    subject: Engine,
    yardstick: Yardstick,
    *,
    front_end: FrontEnd | None = None,
    progress: Progress,
    store: TraceStore = NOT_KEPT,
) -> RunResult:
    """Run the subject twice on the yardstick's tokens: on its own, and each part alone on the yardstick's inputs.

    With a ``front_end``, its processor is judged first, from the files on. The model then runs on what the
    reference's processor gave, so that a pixel that is rounded the other way does not pass for an error of the model.

    A subject that refuses the input (PortError) or breaks (RuntimeError and the like) has failed the case: its
    error becomes part of the verdict. Anything else is a defect of the harness and is raised.
    """
    front = FrontResult([])
    if front_end is not None:
        progress(f"processor ({front_end.name})")
        front = judge_front(inputs.front, front_end, store=store)
    progress(f"subject ({subject.name})")
    comparison = Comparison(yardstick.trace, yardstick.floors, DEFAULT_GATE, keep_rows=_shown_on_pictures)
    with store.recording("subject", *inputs.header(subject)) as keep:
        sink = Recorder(inputs.expected, both(comparison.judge, keep), chunks=inputs.chunks)
        error = _trace(inputs, subject, yardstick, sink)
    why = "the subject did not give this seam" if error is None else f"the subject failed before: {error}"
    findings = comparison.findings(why_missing=why)
    if error is None:
        progress(f"subject, part by part ({subject.name})")
        alone = Comparison(yardstick.trace, yardstick.isolated_floors, ISOLATED_GATE)
        sink = Recorder(inputs.expected, alone.judge, chunks=inputs.chunks, instead=yardstick.trace)
        error = _trace(inputs, subject, yardstick, sink)
        findings = combine_readings(findings, alone.findings())
    findings = front.findings + findings
    error = front.error or error
    return RunResult(findings, judge(findings, subject_error=error), DEFAULT_GATE, error)


def _trace(inputs: CaseInputs, subject: Engine, yardstick: Yardstick, sink: Recorder) -> str | None:
    """Run the subject into ``sink``; what it raised, in words."""
    try:
        subject.trace(inputs.tensors, yardstick.tokens, steps=inputs.decode_steps, sink=sink)
    except (PortError, RuntimeError, IndexError, NotImplementedError, AssertionError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return None


def failed_to_load(yardstick: Yardstick, error: PortError) -> RunResult:
    """The result of a subject that refuses a checkpoint which the reference runs on."""
    text = f"{type(error).__name__}: {error}"
    comparison = Comparison(yardstick.trace, yardstick.floors, DEFAULT_GATE)
    findings = comparison.findings(why_missing=f"the subject did not load: {text}")
    return RunResult(findings, judge(findings, subject_error=text), DEFAULT_GATE, text)


def _shown_on_pictures(entry: Entry) -> bool:
    return entry.group == "vision" and entry.gate == "float"
