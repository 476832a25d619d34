"""The stage of the model's other calls: without a cache, for the last logits alone, several tokens at once.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from parity.core.floors import Floors
from parity.core.trace import Description, MemoryTrace
from parity.engines.base import Engine, Sink, TensorMap, last_real_token
from parity.engines.reference import ReferenceEngine
from parity.runs.inputs import CaseInputs
from parity.runs.recorder import to_numpy
from parity.runs.stages.model_stage import floor_variants
from parity.runs.stages.stage import Stage
from parity.runs.store import entry_of
from parity.runs.yardstick import Yardstick
from parity.seams.calls import AT_ONCE, CHUNKED, FORWARD, LAST, NEXT, SEVERAL, expected_call_seams
from parity.seams.labels import KINDS
from reference.model import ReferenceModel


class CallsSubject(Engine, Protocol):
    """A subject with these calls."""

    def calls(self, inputs: TensorMap, tokens: Tensor, sink: Sink) -> None:
        """Send the logits of each call to ``sink``. ``tokens`` (B, SEVERAL) follow the prompts."""
        ...


def calls_stage(inputs: CaseInputs, model: ReferenceModel) -> Stage[CallsSubject]:
    """Run the reference in true float64, and in each variant of ``floor_variants``, and put its logits together."""
    expected = expected_call_seams()
    mask = inputs.tensors["attention_mask"]
    exact = ReferenceEngine(model, "eager", exact=True)
    arrays, tokens = _logits(exact, inputs, None)
    trace = MemoryTrace(Description(exact.name, exact.detail, exact.dtype, inputs.name, inputs.checkpoint, KINDS))
    for key, kinds in inputs.labels().items():
        trace.add_labels(key, kinds)
    for item, array in zip(expected, _values(arrays, mask), strict=True):
        trace.add(entry_of(item, array), array)
    floors, variants = Floors(trace), floor_variants(model)
    for variant in variants:
        for entry, array in zip(trace, _values(_logits(variant, inputs, tokens)[0], mask), strict=True):
            floors.observe(entry, array)
    return Stage(
        name="calls",
        case=inputs.name,
        expected=expected,
        labels=inputs.labels,
        yardstick=Yardstick(trace=trace, floors=floors, runs=[variant.variant for variant in variants]),
        run=lambda subject, sink: subject.calls(inputs.tensors, tokens, sink),
        checkpoint=inputs.checkpoint,
    )


def _logits(engine: ReferenceEngine, inputs: CaseInputs, tokens: Tensor | None) -> tuple[list[np.ndarray], Tensor]:
    """Return the logits of the prefill (B, S, V) and of each step (B, 1, V), and the tokens that were fed."""
    found: list[np.ndarray] = []

    def sink(name: str, tensor: Tensor) -> None:
        if name == "logits":
            found.append(to_numpy(tensor))

    fed = engine.trace(inputs.tensors, tokens, steps=SEVERAL, sink=sink)
    return found, fed


def _values(logits: list[np.ndarray], mask: Tensor) -> list[np.ndarray]:
    """Return what each call must give, in the order of the seams."""
    prompt, *steps = logits
    last = prompt[np.arange(len(mask)), last_real_token(mask).numpy()]  # (B, V)
    of = {FORWARD: prompt, LAST: last, NEXT: steps[0], CHUNKED: last, AT_ONCE: np.concatenate(steps, axis=1)}
    return [of[item.spec] for item in expected_call_seams()]
