"""Times another engine beside the port: the prompt and the decode steps of the same answers, in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from parity.bench.ratios import Pairs, Ratio, pairs_wanted, ratio_of, timed
from parity.bench.works import Run, Sides, Sizes, decode_work, text_inputs
from parity.engines.mistralrs_timed import Answered, TimedMistralRs
from parity.engines.registry import engine
from port import Inputs

_MOST_STEPS = 256
_RESOLUTION = 1e-3  # seconds: the engine counts milliseconds
_AT_LEAST = 100 * _RESOLUTION
_WORD = "leg "


@dataclass(frozen=True)
class Beside:
    """One work of the port and of another engine: how many times faster the port is."""

    engine: str
    name: str
    title: str
    amount: int
    unit: str
    pairs: Pairs
    ratio: Ratio


@dataclass(frozen=True)
class _Own:
    """What the port does of the same answer."""

    name: str
    title: str
    amount: int
    unit: str
    run: Run


def beside_mistralrs(sides: Sides, sizes: Sizes, *, budget: float) -> tuple[Beside, ...]:
    """Time prefill and decode of the port and of mistral.rs in pairs, on the wall clock.

    ``budget``: about so many seconds. Raises ParityError if it is not installed or fails.
    """
    asked = engine("mistralrs")
    prompt = _WORD * sizes.context
    with TimedMistralRs(sides.folder, dtype=sides.port.dtype, threads=torch.get_num_threads()) as other:
        other.answer(prompt, tokens=2)
        warm = other.answer(prompt, tokens=sizes.steps + 1)
        per_token = max(warm.decode_seconds / warm.decoded_tokens, 1e-4)
        steps = min(_MOST_STEPS, max(sizes.steps, int(_AT_LEAST / per_token) + 1))
        length = warm.prompt_tokens
        parts = _prefill(sides, length), _decode(sides, length, steps)
        runs = [part.run for part in parts]
        answer = lambda: other.answer(prompt, tokens=steps + 1)  # noqa: E731
        wanted = pairs_wanted(sum(_pair(runs, answer, first=True)), budget)
        found = [_pair(runs, answer, first=number % 2 == 0) for number in range(wanted)]
    return tuple(
        _of(part, asked.title, Pairs(*zip(*((pair[at], pair[2 + at]) for pair in found), strict=True)))
        for at, part in enumerate(parts)
    )


def _pair(runs: list[Run], answer: Callable[[], Answered], *, first: bool) -> tuple[float, ...]:
    """Seconds of the port's prefill and decode, then those of the engine; the port runs first or last."""
    own = [timed(run) for run in runs] if first else []
    given = answer()
    own = own or [timed(run) for run in runs]
    return (*own, *(max(found, _RESOLUTION / 2) for found in (given.prompt_seconds, given.decode_seconds)))


def _of(part: _Own, title: str, pairs: Pairs) -> Beside:
    return Beside(title, part.name, part.title, part.amount, part.unit, pairs, ratio_of(pairs))


def _decode(sides: Sides, context: int, steps: int) -> _Own:
    work = decode_work(sides, batch=1, context=context, steps=steps)
    return _Own(work.name, work.title, work.amount, work.unit, work.port())


def _prefill(sides: Sides, tokens: int) -> _Own:
    """The prompt of a chat: the logits after its last token alone."""
    inputs = Inputs(**text_inputs(sides.model, 1, tokens))
    model = sides.model

    def run() -> object:
        return model.prefill_last(inputs, model.new_cache(1, tokens))

    title = f"prefill of {tokens} tokens, last logits"
    return _Own("prefill-last", title, tokens, "tokens", run)
