"""The model stage: a prefill and decode steps, compared with the reference in true float64 at every seam."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from parity.core.trace import Description
from parity.engines.base import ModelEngine, Sink
from parity.engines.reference import ReferenceEngine
from parity.kernels.plain import PartKernels, PlainKernels
from parity.runs.inputs import CaseInputs
from parity.runs.kept import KeptYardsticks, yardstick_key
from parity.runs.stages.stage import Stage
from parity.runs.store import NOT_KEPT, TraceStore
from parity.runs.yardstick import Progress, ReferenceRun, measure_yardstick
from parity.seams.labels import KINDS
from reference.model import ReferenceModel


@dataclass(kw_only=True)
class ModelStage(Stage[ModelEngine]):
    """The model stage. ``tokens`` (B, steps) are the greedy tokens of the yardstick; other runs are fed with them.

    ``kept`` is the key of the yardstick, if it was kept from an earlier run.
    """

    tokens: Tensor
    reference: ReferenceEngine
    kept: str | None = None


def floor_variants(model: ReferenceModel) -> list[ReferenceEngine]:
    """Return the correct runs, at the model's own dtype, whose distance from the yardstick is the floor.

    They run on the model's device. The CPU adds in other orders with one thread, and with kernels in plain order; other
    devices with unfused attention, and in parts.
    """
    if model.device.type != "cpu":
        return [
            ReferenceEngine(model, "eager"),
            ReferenceEngine(model, "sdpa"),
            ReferenceEngine(model, "sdpa", nudge=1, unfused=True),
            ReferenceEngine(model, "eager", kernels=PartKernels(), nudge=2),
        ]
    return [
        ReferenceEngine(model, "eager"),
        ReferenceEngine(model, "sdpa"),
        ReferenceEngine(model, "sdpa", nudge=1, threads=1),
        ReferenceEngine(model, "eager", kernels=PlainKernels(), nudge=2),
    ]


def model_stage(
    inputs: CaseInputs,
    model: ReferenceModel,
    *,
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
    kept: KeptYardsticks | None = None,
) -> ModelStage:
    """Run the reference in true float64 and, at its own dtype, in each variant of ``floor_variants``.

    With ``kept``, a yardstick of an earlier run is used if nothing that it depends on has changed.
    Raises the errors of ``measure_yardstick`` and ``KeptYardsticks.keep``.
    """
    exact = ReferenceEngine(model, "eager", exact=True)
    fed: list[Tensor] = []

    def choose(sink: Sink) -> None:
        fed.append(exact.trace(inputs.tensors, None, steps=inputs.decode_steps, sink=sink))

    def described(engine: ReferenceEngine) -> Description:
        return Description(engine.name, engine.detail, engine.dtype, inputs.name, inputs.checkpoint, KINDS)

    def variant(engine: ReferenceEngine) -> ReferenceRun:
        def run(sink: Sink) -> None:
            engine.trace(inputs.tensors, fed[0], steps=inputs.decode_steps, sink=sink)

        return ReferenceRun(engine.variant, described(engine), run, engine.nudge)

    variants = floor_variants(model)
    key, found = None, None
    if kept is not None:
        key = yardstick_key(
            kept, model, inputs, variants=[f"{each.detail}, {each.dtype}" for each in (exact, *variants)]
        )
        progress("kept yardstick")
        found = kept.find(key)
    if found is not None:
        yardstick, tokens = found
    else:
        yardstick = measure_yardstick(
            ReferenceRun(exact.variant, described(exact), choose),
            [variant(engine) for engine in variants],
            inputs.expected,
            inputs.labels,
            progress=progress,
            store=store,
            stage="model",
        )
        tokens = fed[0]
        if kept is not None and key is not None:
            kept.keep(key, yardstick, tokens)

    def run(subject: ModelEngine, sink: Sink) -> None:
        subject.trace(inputs.tensors, tokens, steps=inputs.decode_steps, sink=sink)

    return ModelStage(
        name="model",
        case=inputs.name,
        expected=inputs.expected,
        labels=inputs.labels,
        yardstick=yardstick,
        run=run,
        chunks=inputs.chunks,
        checkpoint=inputs.checkpoint,
        tokens=tokens,
        reference=exact,
        kept=key if found is not None else None,
    )
