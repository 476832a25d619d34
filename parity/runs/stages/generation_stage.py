"""The generation stage: requests to ``generate``, compared token by token.

The reference in true float64 generates first. Then both sides go on with its logits, tokens and ends after each token,
so that every step is judged on the same input: the logits with floors as in the model stage, what follows from them
(penalties, temperature, the tokens that are left, the choice, the end) on the yardstick's logits, and the text.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from parity.cases.case import Request
from parity.core.errors import ParityError
from parity.core.trace import PADDING, Description, SeamKey
from parity.engines.base import Sink, TensorMap
from parity.engines.generation import GenerationRequest, GenerationSubject, code_points, settings_tensor
from parity.engines.reference import ReferenceEngine
from parity.runs.fed import fed
from parity.runs.inputs import CaseInputs
from parity.runs.recorder import OnValue, Recorder, to_numpy
from parity.runs.stages.model_stage import floor_variants
from parity.runs.stages.sampling import Decided, decide, scores_of
from parity.runs.stages.stage import Stage
from parity.runs.store import NOT_KEPT, Labels, TraceStore
from parity.runs.yardstick import Progress, ReferenceRun, measure_yardstick
from parity.seams.generation import RequestPlan, expected_generation_seams, row_seed, rows_of
from parity.seams.labels import KINDS, TokenKind
from reference.generation import Sampler, sampler
from reference.model import ReferenceModel
from reference.nudge import moved
from reference.processor import ReferenceProcessor

FILE = "generation_config.json"


@dataclass(frozen=True)
class Token:
    """One step of the yardstick. ``over`` (B,) are the rows that ended before it, ``ended`` those after it."""

    logits: Tensor  # (B, V) float64
    decided: Decided
    over: Tensor
    ended: Tensor

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all values in the order of the seams."""
        yield "logits", self.logits
        yield from self.decided.values.items()
        yield "ended", self.ended


@dataclass(frozen=True)
class Written:
    """The text of a row: as it is shown, with special tokens, and that of each token alone."""

    text: str
    with_special: str
    pieces: Sequence[str]

    @classmethod
    def of(cls, ids: Sequence[int], processor: ReferenceProcessor) -> Written:
        return cls(processor.text(ids), processor.decode(ids), [processor.text([token]) for token in ids])


@dataclass(frozen=True)
class Planned:
    """A request, and what the yardstick generates for it."""

    request: GenerationRequest
    sampler: Sampler
    tokens: Sequence[Token]
    rows: Sequence[Sequence[int]]  # the new tokens of each row, up to its end
    written: Sequence[Written]

    @property
    def plan(self) -> RequestPlan:
        return RequestPlan(len(self.rows), self.sampler.do_sample, len(self.tokens))


@dataclass(kw_only=True)
class GenerationStage(Stage[GenerationSubject]):
    """The generation stage. ``planned`` is what the yardstick generates; ``configs`` holds the requests' files."""

    planned: Sequence[Planned]
    reference: ReferenceEngine
    configs: tempfile.TemporaryDirectory[str] = field(repr=False)

    def recorder(self, on_value: OnValue, *, isolated: bool = False, copies: bool = True) -> Recorder:
        """Return a sink that passes on every value, and returns the yardstick's logits, tokens and ends."""
        return Recorder(self.expected, on_value, instead=fed(self.yardstick.trace), copies=copies)


def generation_stage(
    inputs: CaseInputs,
    model: ReferenceModel,
    processor: ReferenceProcessor,
    requests: Sequence[Request],
    checkpoint: Path,
    *,
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
) -> GenerationStage:
    """Let the reference generate for each request, and measure the floors of its logits and scores.

    Raises ParityError, and ReferenceModelError for a ``generation_config.json`` that the reference refuses.
    """
    if not requests:
        raise ParityError(f"the case {inputs.name} has the stage generation, but no requests; add some")
    configs = tempfile.TemporaryDirectory(prefix="parity-generation-")
    exact = ReferenceEngine(model, "eager", exact=True)
    yardstick_model = _Generating(exact, inputs.tensors)
    progress("generation (reference)")
    planned = [
        _planned(request, Path(configs.name) / str(number), checkpoint, yardstick_model, processor)
        for number, request in enumerate(requests)
    ]
    expected = expected_generation_seams([each.plan for each in planned])

    def describe(engine: ReferenceEngine) -> Description:
        return Description(engine.name, engine.detail, engine.dtype, inputs.name, inputs.checkpoint, KINDS)

    def again(sink: Sink) -> None:
        for each in planned:
            _send(each, sink, (dict(token.values()) for token in each.tokens))

    def variant(engine: ReferenceEngine) -> ReferenceRun:
        running = _Generating(engine, inputs.tensors)

        def run(sink: Sink) -> None:
            for each in planned:
                _send(each, sink, _narrow_values(each, running))

        return ReferenceRun(engine.variant, describe(engine), run, engine.nudge)

    yardstick = measure_yardstick(
        ReferenceRun(exact.variant, describe(exact), again),
        [variant(engine) for engine in floor_variants(model)],
        expected,
        lambda: _labels(planned),
        name="reference-generation",
        isolated=False,
        progress=progress,
        store=store,
    )

    def run(subject: GenerationSubject, sink: Sink) -> None:
        for each in planned:
            subject.generate(inputs.tensors, each.request, sink)

    return GenerationStage(
        name="generation",
        case=inputs.name,
        expected=expected,
        labels=lambda: _labels(planned),
        yardstick=yardstick,
        run=run,
        checkpoint=inputs.checkpoint,
        planned=planned,
        reference=exact,
        configs=configs,
    )


class _Generating:
    """Runs a model, and keeps the logits of the prompts: many requests need nothing else."""

    def __init__(self, engine: ReferenceEngine, inputs: TensorMap) -> None:
        self.engine, self.inputs = engine, inputs
        self.dtype = engine.model.dtype  # while the model runs in true float64, it says float64
        self._first: Tensor | None = None

    @torch.no_grad()
    def run(self, choose: Callable[[Tensor], Tensor | None]) -> None:
        """See ``ReferenceEngine.generate``."""
        if self._first is None:
            self.engine.generate(self.inputs, self._keep)
        assert self._first is not None
        chosen = choose(self._first)
        if chosen is None:
            return
        answers = [chosen]  # to the prompts' logits, which come again
        self.engine.generate(self.inputs, lambda logits: answers.pop() if answers else choose(logits))

    def _keep(self, logits: Tensor) -> None:
        self._first = logits


def _planned(
    request: Request, folder: Path, checkpoint: Path, running: _Generating, processor: ReferenceProcessor
) -> Planned:
    """Write the request's file, and let the yardstick generate."""
    fields, model = _fields(request, checkpoint), running.engine.model
    if request.end_after:
        _write(folder, {**fields, "eos_token_id": None})
        endless = _tokens(sampler(model, folder, max_new_tokens=_longest(request)), request, running)
        fields["eos_token_id"] = sorted(_ends(request, endless))
    _write(folder, fields)
    own = sampler(model, folder, max_new_tokens=request.max_new_tokens)
    tokens = _tokens(own, request, running)
    rows: list[list[int]] = [[] for _ in running.inputs["input_ids"]]
    for token in tokens:
        for row, (chosen, over) in enumerate(zip(token.decided.tokens.tolist(), token.over.tolist(), strict=True)):
            if not over:
                rows[row].append(chosen)
    written = [Written.of(row, processor) for row in rows]
    return Planned(GenerationRequest(folder, request.max_new_tokens, request.seed), own, tokens, rows, written)


def _tokens(own: Sampler, request: Request, running: _Generating) -> list[Token]:
    """Generate with the yardstick until every row has ended."""
    rows = _prompts(running.inputs)
    generators = [torch.Generator().manual_seed(row_seed(request.seed, row)) for row in range(len(rows))]
    found: list[Token] = []

    def choose(logits: Tensor) -> Tensor | None:
        over = found[-1].ended if found else torch.zeros(len(rows), dtype=torch.bool)
        decided = decide(own, logits.to(running.dtype), rows, generators, nudge=len(found))
        last = len(found) + 1 == own.max_new_tokens
        at_end = torch.tensor([last or token in own.eos_token_ids for token in decided.tokens.tolist()])
        found.append(Token(logits.double(), decided, over, over | at_end))
        for row, token in enumerate(decided.tokens.tolist()):
            rows[row] = torch.cat([rows[row], torch.tensor([token])])
        return None if bool(found[-1].ended.all()) else decided.tokens

    running.run(choose)
    return found


def _prompts(inputs: TensorMap) -> list[Tensor]:
    """Return the ids of each row without padding."""
    return [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def _fields(request: Request, checkpoint: Path) -> dict[str, object]:
    if request.config is not None:
        return dict(request.config)
    fields: dict[str, object] = json.loads((checkpoint / FILE).read_text(encoding="utf-8"))
    return fields


def _write(folder: Path, fields: Mapping[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _longest(request: Request) -> int:
    return max(after for after in request.end_after if after is not None)


def _ends(request: Request, tokens: Sequence[Token]) -> set[int]:
    return {
        int(tokens[after - 1].decided.tokens[row]) for row, after in enumerate(request.end_after) if after is not None
    }


def _narrow_values(each: Planned, running: _Generating) -> Iterator[dict[str, Tensor]]:
    """Yield the values of a correct run for every token.

    The logits are its own. What follows is computed in float32 from the yardstick's logits.
    """
    engine = running.engine
    logits: list[Tensor] = []
    tokens = [token.decided.tokens for token in each.tokens]

    def choose(found: Tensor) -> Tensor | None:
        logits.append(found.clone())
        return tokens[len(logits) - 1] if len(logits) < len(tokens) else None

    running.run(choose)
    source = None if engine.nudge is None else torch.Generator().manual_seed(engine.nudge)
    rows = _prompts(running.inputs)
    for token, own in zip(each.tokens, logits, strict=True):
        given = token.logits.to(running.dtype).float()
        scores = scores_of(each.sampler, given if source is None else moved(given, source), rows)
        yield {"logits": own, **scores, "tokens": token.decided.tokens, "ended": token.ended}
        rows = [torch.cat([row, new]) for row, new in zip(rows, token.decided.tokens.unsqueeze(1), strict=True)]


def _send(each: Planned, sink: Sink, tokens: Iterator[dict[str, Tensor]]) -> None:
    own = each.sampler
    used = {**own.settings, "do_sample": float(own.do_sample), "max_new_tokens": float(own.max_new_tokens)}
    sink("generation.settings", settings_tensor(used))
    sink("generation.eos_token_ids", torch.tensor(own.eos_token_ids, dtype=torch.long))
    for values in tokens:
        for name, value in values.items():
            sink(f"generation.{name}", value)
    for row, written in enumerate(each.written):
        text = code_points(written.text)
        sink(f"generation.text.{row}", text)
        sink(f"generation.stream.{row}", text)


def _labels(planned: Sequence[Planned]) -> Labels:
    """Return the kinds of the rows (B,) of every value of a token. Rows that have ended are padding.

    So are rows in which correct runs make another choice: they say nothing about a subject.
    """
    calls: dict[str, int] = {}
    labels: dict[SeamKey, np.ndarray] = {}
    for each in planned:
        for token in each.tokens:
            for name, _ in token.values():
                seam = f"generation.{name}"
                open_rows = ~token.over & ~token.decided.undecided.get(name, torch.zeros_like(token.over))
                kinds = np.where(to_numpy(open_rows), np.uint8(TokenKind.TEXT), np.uint8(PADDING))
                key = SeamKey(seam, calls.get(seam, 0))
                calls[seam] = key.call + 1
                labels[rows_of(key)] = kinds.astype(np.uint8)
    return labels
