"""Stages, and the loop that judges them. While the subject runs, every value is judged as it is produced.

A stage is a part of the pipeline that both sides run: the processor, the model, the weights. To add one, write a
function that builds a `Stage`, as in ``processor_stage``, ``model_stage`` and ``weights_stage``, and call it in
``case_run``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from parity.core.compare import Comparison, Finding
from parity.core.errors import ParityError
from parity.core.isolation import combine_comparisons
from parity.core.trace import Description, Entry
from parity.engines.base import Engine, Sink
from parity.runs.clock import Pass, timing_pass
from parity.runs.recorder import OnValue, Recorder, both
from parity.runs.store import NOT_KEPT, Labels, TraceStore
from parity.runs.yardstick import Progress, Yardstick
from parity.seams.labels import KINDS
from parity.seams.spec import Expected

SubjectT = TypeVar("SubjectT", bound=Engine)


@dataclass(kw_only=True)
class Stage(Generic[SubjectT]):
    """A part of the pipeline that is judged seam by seam.

    ``run`` runs the stage with a subject, and sends every tensor with its seam's name to the sink. ``chunks`` is the
    number of chunks in the subject's prefill.
    """

    name: str
    case: str
    expected: Sequence[Expected]
    labels: Callable[[], Labels]
    yardstick: Yardstick
    run: Callable[[SubjectT, Sink], object]
    chunks: int = 1
    checkpoint: str | None = None  # sha256, see ``parity.core.digest``

    def describe(self, engine: Engine) -> Description:
        """Return the description of a trace of this stage by an engine."""
        return Description(engine.name, engine.detail, engine.dtype, self.case, self.checkpoint, KINDS)

    def recorder(self, on_value: OnValue, *, isolated: bool = False, copies: bool = True) -> Recorder:
        """Return a sink that passes on every value. With ``isolated``, each part gets the reference's inputs.

        For ``copies`` see ``Recorder``.
        """
        instead = self.yardstick.trace if isolated else None
        return Recorder(self.expected, on_value, chunks=self.chunks, instead=instead, copies=copies)


@dataclass(frozen=True)
class StageResult:
    """The result of one stage.

    ``error`` is what the subject raised, if it did. If it is not ``loaded``, it did so before the stage began.
    ``passes`` are the subject's, with their times.
    """

    findings: list[Finding] = field(default_factory=list)
    error: str | None = None
    loaded: bool = True
    passes: Sequence[Pass] = ()


def judge_stage(
    stage: Stage[SubjectT],
    subject: SubjectT,
    *,
    isolated: bool = True,
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
) -> StageResult:
    """Run the subject on its own, and then with each part fed the reference's inputs, and judge every value.

    If the subject raises, it has failed the stage, and its error becomes part of the result. Without ``isolated``, or
    if the stage has no isolated floors, there is no second run.
    """
    yardstick = stage.yardstick
    passes: list[Pass] = []

    def attempted(title: str, recorder: Recorder) -> str | None:
        with timing_pass(stage.name, title, recorder, passes.append) as sink:
            return attempt(stage, subject, sink)

    progress(f"{stage.name} ({subject.name})")
    comparison = Comparison(yardstick.trace, yardstick.floors, yardstick.gate, keep_rows=_shown_on_pictures)
    with store.recording(f"subject{suffix(stage.name)}", stage.describe(subject), stage.expected, stage.labels) as keep:
        recorder = stage.recorder(both(comparison.judge, keep), copies=store.folder is not None)
        error = attempted(subject.name, recorder)
    why = "the subject did not give this seam" if error is None else f"the subject failed before: {error}"
    findings = comparison.findings(why_missing=why)
    if error is not None or not isolated or yardstick.isolated_floors is None:
        return StageResult(findings, error, passes=passes)
    progress(f"{stage.name}, each part isolated ({subject.name})")
    parts = Comparison(yardstick.trace, yardstick.isolated_floors, yardstick.isolated_gate, shown=False)
    recorder = stage.recorder(parts.judge, isolated=True, copies=False)
    error = attempted(f"{subject.name}, each part isolated", recorder)
    return StageResult(combine_comparisons(findings, parts.findings()), error, passes=passes)


def attempt(stage: Stage[SubjectT], subject: SubjectT, sink: Sink) -> str | None:
    """Run the subject with ``sink``. Returns the subject's error as text, or None.

    Errors of the sink, and errors of the machine such as a full memory, are raised: they are not the subject's fault.
    """
    guard = _Guard(sink)
    try:
        stage.run(subject, guard)
    except (ParityError, OSError, MemoryError):
        raise
    except Exception as raised:  # a subject may raise anything
        if guard.failed is not None:
            raise guard.failed from None
        return f"{type(raised).__name__}: {raised}"
    return None


def not_loaded(stages: Sequence[Stage[SubjectT]], error: Exception) -> list[StageResult]:
    """Return the results of a subject that refuses a checkpoint on which the reference runs."""
    text = f"{type(error).__name__}: {error}"
    results = []
    for stage in stages:
        comparison = Comparison(stage.yardstick.trace, stage.yardstick.floors, stage.yardstick.gate)
        found = comparison.findings(why_missing=f"the subject did not load: {text}")
        results.append(StageResult(found, text, loaded=False))
    return results


def suffix(stage: str) -> str:
    """Return the suffix of a stage's trace folders, as in ``subject-processor``. The model stage has none."""
    return "" if stage == "model" else f"-{stage}"


class _Guard:
    """A sink that calls another sink, and remembers what that one raised."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.failed: Exception | None = None

    def __call__(self, name: str, tensor: Tensor) -> Tensor | None:
        try:
            return self._sink(name, tensor)
        except Exception as error:
            self.failed = error
            raise


def _shown_on_pictures(entry: Entry) -> bool:
    return entry.group == "vision" and entry.gate == "float"
