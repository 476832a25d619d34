"""Mistakes between logits and the next token: penalties, temperature, the tokens that are left, the draw.

Shape legend
    B, V   rows, vocabulary
    S      tokens of a prompt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import port.sampling as sampling
from parity.mutants.base import altered, around, family, replaced
from port.generation_config import GenerationConfig

Scores = Callable[[Tensor, GenerationConfig, Tensor | None], Tensor]

# ``port.generate`` is the function; this is its module.
_GENERATE = import_module("port.generate")
_STEP = "request *, token *"


def _adjusted(scores: Scores) -> AbstractContextManager[None]:
    """The logits of a step are adjusted by another function."""
    return replaced(_GENERATE, "adjusted", scores)


def _settings(change: Callable[[GenerationConfig], GenerationConfig]) -> AbstractContextManager[None]:
    """The logits are adjusted with other settings than those that were read."""
    return around(_GENERATE, "adjusted", lambda original, logits, config, seen: original(logits, change(config), seen))


def _seen(change: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]) -> AbstractContextManager[None]:
    """``change(original, seen, tokens, mask)`` marks which tokens have been seen."""
    return around(
        _GENERATE, "mark_seen", lambda original, seen, tokens, mask=None: change(original, seen, tokens, mask)
    )


def _all_seen(original: Any, seen: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    return original(seen, tokens)  # padding counts too


def _prompt_not_seen(original: Any, seen: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    return seen if mask is not None else original(seen, tokens)


def _new_not_seen(original: Any, seen: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    return seen if mask is None else original(seen, tokens, mask)


def _seen_by_all_rows(original: Any, seen: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    found: Tensor = original(seen, tokens, mask)
    return found.any(dim=0, keepdim=True).expand_as(found).clone()


def _seen_twice_over(original: Any, seen: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Only the last 8 tokens of the prompt are seen, as with a window."""
    return original(seen, tokens[:, -8:], None if mask is None else mask[:, -8:])


def _penalty(change: Callable[[Tensor, Tensor, float], Tensor]) -> AbstractContextManager[None]:
    """``change(logits, seen, penalty)`` applies the penalty."""
    return replaced(sampling, "penalise_repetition", change)


def _divided(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return torch.where(seen, logits / penalty, logits)


def _subtracted(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return torch.where(seen, logits - (penalty - 1), logits)


def _not_seen_penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return torch.where(~seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _zero_k(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(logits < logits.topk(min(k, logits.shape[-1])).values[..., -1:], 0.0)


def _k(change: Callable[[int], int]) -> AbstractContextManager[None]:
    return around(sampling, "keep_top_k", lambda original, logits, k: original(logits, max(1, change(k))))


def _k_of_row_0(original: Any, logits: Tensor, k: int) -> Tensor:
    """Every row keeps the tokens of row 0."""
    kept: Tensor = original(logits, k)[:1] > -torch.inf
    return logits.masked_fill(~kept, -torch.inf)


def _p(change: Callable[[float], float]) -> AbstractContextManager[None]:
    return around(sampling, "keep_top_p", lambda original, logits, p: original(logits, change(p)))


def _p_crossing_dropped(logits: Tensor, p: float) -> Tensor:
    """The token that crosses the limit is dropped, as long as one is left."""
    ordered, places = logits.sort(descending=True)
    unlikely = ordered.softmax(dim=-1).cumsum(dim=-1) > p
    unlikely[..., :1] = False
    return logits.masked_fill(unlikely.scatter(-1, places, unlikely), -torch.inf)


def _p_not_put_back(logits: Tensor, p: float) -> Tensor:
    """The mask of the sorted logits is used for the unsorted ones."""
    ordered, _ = logits.sort(descending=False)
    unlikely = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    unlikely[..., -1:] = False
    return logits.masked_fill(unlikely, -torch.inf)


def _p_none_left(logits: Tensor, p: float) -> Tensor:
    """With a limit of 0 or near it, the most likely token is not kept."""
    if p > 0:
        return _p_crossing_dropped(logits, p) if p < 0.01 else _KEEP_TOP_P(logits, p)
    return logits


_KEEP_TOP_P = sampling.keep_top_p


def _min_p_absolute(logits: Tensor, p: float) -> Tensor:
    probabilities = logits.softmax(dim=-1)
    least = probabilities.amax(dim=-1, keepdim=True).clamp(max=p)
    return logits.masked_fill(probabilities < least, -torch.inf)


def _min_p_of_logits(logits: Tensor, p: float) -> Tensor:
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) - (1 - p), -torch.inf)


def _min_p_strict(logits: Tensor, p: float) -> Tensor:
    """Tokens at the limit are dropped too, so that 1 leaves the most likely token only if no other is as likely."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < 2 * p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def _reordered(*names: str) -> AbstractContextManager[None]:
    """The steps of drawing come in another order."""
    steps: dict[str, Callable[[Tensor, GenerationConfig], Tensor]] = {
        "temperature": lambda logits, config: logits / config.temperature,
        "top_k": lambda logits, config: sampling.keep_top_k(logits, config.top_k) if config.top_k else logits,
        "top_p": lambda logits, config: sampling.keep_top_p(logits, config.top_p) if config.top_p < 1 else logits,
        "min_p": lambda logits, config: sampling.keep_min_p(logits, config.min_p) if config.min_p > 0 else logits,
    }

    def adjusted(logits: Tensor, config: GenerationConfig, seen: Tensor | None = None) -> Tensor:
        logits = logits.float()
        if config.repetition_penalty != 1 and seen is not None:
            logits = sampling.penalise_repetition(logits, seen, config.repetition_penalty)
        logits = sampling.TAP("repetition_penalty", logits)
        if not config.do_sample:
            return logits
        for name in names:
            logits = sampling.TAP(name, steps[name](logits, config))
        return logits

    return _adjusted(adjusted)


def _penalty_last(logits: Tensor, config: GenerationConfig, seen: Tensor | None = None) -> Tensor:
    """The penalty is applied after the temperature."""
    plain = sampling.adjusted(logits, replace(config, repetition_penalty=1.0), seen)
    if config.repetition_penalty == 1 or seen is None:
        return plain
    return sampling.penalise_repetition(plain, seen, config.repetition_penalty)


def _in_bfloat16(original: Any, logits: Tensor, *rest: Any) -> Tensor:
    return original(logits.bfloat16().float(), *rest)


def _drawn(change: Callable[..., Tensor]) -> AbstractContextManager[None]:
    """``change(original, logits, config, generators)`` chooses the tokens."""
    return around(_GENERATE, "choose", change)


def _one_generator(original: Any, logits: Tensor, config: GenerationConfig, generators: Sequence[Any]) -> Tensor:
    return original(logits, config, [generators[0]] * len(generators))


def _drawn_by_row_0(original: Any, logits: Tensor, config: GenerationConfig, generators: Sequence[Any]) -> Tensor:
    chosen: Tensor = original(logits, config, generators)
    return chosen[:1].expand_as(chosen).clone()


def _likeliest(original: Any, logits: Tensor, config: GenerationConfig, generators: Sequence[Any]) -> Tensor:
    original(logits, config, generators)
    return logits.argmax(dim=-1)


def _least_likely_when_equal(original: Any, logits: Tensor, config: Any, generators: Sequence[Any]) -> Tensor:
    """Greedy takes the second most likely token."""
    chosen: Tensor = original(logits, config, generators)
    return chosen if config.do_sample else logits.topk(2).indices[:, 1]


def _generators(change: Callable[[Any, int, int], Any]) -> AbstractContextManager[None]:
    return around(_GENERATE, "row_generators", change)


_any = family(component="sampling", stage="generation", step=_STEP)
_penalty_of = family(
    component="sampling",
    stage="generation",
    step=_STEP,
    seam="generation.repetition_penalty",
    needs=frozenset({"penalty"}),
)


def _of(name: str, *more: str) -> Any:
    return family(
        component="sampling",
        stage="generation",
        step=_STEP,
        seam=f"generation.{name}",
        needs=frozenset({"drawing", name, *more}),
    )


_temperature, _top_k, _top_p, _min_p = (_of(name) for name in ("temperature", "top_k", "top_p", "min_p"))
_draw = family(
    component="sampling", stage="generation", step=_STEP, seam="generation.tokens", needs=frozenset({"drawing"})
)
_DRAWN_ROWS = frozenset({"drawing", "several rows"})

MUTANTS = (
    _penalty_of(
        "penalty-divides-negative",
        "a repetition penalty divides negative logits too, which makes them likelier",
        lambda: _penalty(_divided),
    ),
    _penalty_of(
        "penalty-subtracted",
        "a repetition penalty is subtracted, as a presence penalty is",
        lambda: _penalty(_subtracted),
    ),
    _penalty_of("penalty-of-unseen", "tokens that were not seen are penalised", lambda: _penalty(_not_seen_penalised)),
    _penalty_of(
        "penalty-below-one-ignored",
        "a repetition penalty below 1 is ignored",
        lambda: _settings(lambda config: replace(config, repetition_penalty=max(1.0, config.repetition_penalty))),
        needs=frozenset({"reward"}),
    ),
    _penalty_of("penalty-left-out", "the repetition penalty is not applied", lambda: _penalty(lambda x, _s, _p: x)),
    _penalty_of(
        "penalty-only-when-drawing",
        "the repetition penalty is only applied if tokens are drawn",
        lambda: _settings(lambda config: config if config.do_sample else replace(config, repetition_penalty=1.0)),
        needs=frozenset({"greedy penalty"}),
    ),
    _penalty_of(
        "penalty-counts-padding",
        "padding counts as seen",
        lambda: _seen(_all_seen),
        needs=frozenset({"penalty", "padding"}),
    ),
    _penalty_of(
        "penalty-without-prompt",
        "only new tokens are penalised, not those of the prompt",
        lambda: _seen(_prompt_not_seen),
    ),
    _penalty_of(
        "penalty-without-new-tokens",
        "only the prompt's tokens are penalised",
        lambda: _seen(_new_not_seen),
        needs=frozenset({"penalty of new tokens"}),
    ),
    _penalty_of(
        "penalty-of-all-rows",
        "the tokens of all rows are penalised in each",
        lambda: _seen(_seen_by_all_rows),
        needs=frozenset({"penalty", "several rows"}),
    ),
    _penalty_of(
        "penalty-of-last-tokens", "only the last 8 tokens of the prompt are penalised", lambda: _seen(_seen_twice_over)
    ),
    _penalty_of(
        "penalty-after-temperature",
        "the repetition penalty comes last",
        lambda: _adjusted(_penalty_last),
    ),
    _temperature(
        "temperature-multiplied",
        "logits are multiplied by the temperature",
        lambda: _settings(lambda config: replace(config, temperature=1 / config.temperature)),
    ),
    _temperature(
        "temperature-ignored",
        "the temperature is not used",
        lambda: _settings(lambda config: replace(config, temperature=1.0)),
    ),
    _temperature(
        "temperature-above-one-ignored",
        "temperatures above 1 are taken for 1",
        lambda: _settings(lambda config: replace(config, temperature=min(1.0, config.temperature))),
        needs=frozenset({"drawing", "hot"}),
    ),
    _any(
        "scores-in-bfloat16",
        "the scores are computed in bfloat16, not in float32",
        lambda: around(_GENERATE, "adjusted", _in_bfloat16),
        seam="generation.repetition_penalty",
        dtypes=("float32",),
        needs=frozenset({"request"}),
        invisible="the logits are bfloat16 already",
    ),
    _top_k("top-k-one-more", "one token too many is kept", lambda: _k(lambda k: k + 1)),
    _top_k(
        "top-k-one-less",
        "one token too few is kept",
        lambda: _k(lambda k: k - 1),
        needs=frozenset({"drawing", "top_k above 1"}),
    ),
    _top_k("top-k-at-zero", "removed tokens get a logit of 0", lambda: replaced(sampling, "keep_top_k", _zero_k)),
    _top_k(
        "top-k-of-row-0",
        "every row keeps the tokens of row 0",
        lambda: around(sampling, "keep_top_k", _k_of_row_0),
        needs=frozenset({"drawing", "top_k", "several rows"}),
    ),
    _top_k(
        "top-k-default-lost",
        "without top_k in the file, all tokens are kept instead of 50",
        lambda: _settings(lambda config: replace(config, top_k=0 if config.top_k == 50 else config.top_k)),
        needs=frozenset({"drawing", "default top_k"}),
    ),
    _top_k(
        "top-k-always",
        "top_k 0 keeps 50 tokens instead of all",
        lambda: _settings(lambda config: replace(config, top_k=config.top_k or 50)),
        needs=frozenset({"drawing", "no top_k"}),
    ),
    _top_p(
        "top-p-crossing-dropped",
        "the token that reaches top_p is dropped",
        lambda: replaced(sampling, "keep_top_p", _p_crossing_dropped),
    ),
    _top_p("top-p-of-the-rest", "top_p is taken for 1 - top_p", lambda: _p(lambda p: 1 - p)),
    _top_p(
        "top-p-not-put-back",
        "the tokens to drop are found in sorted order and dropped in the order of the vocabulary",
        lambda: replaced(sampling, "keep_top_p", _p_not_put_back),
    ),
    _top_p(
        "top-p-zero-ignored",
        "top_p 0 keeps all tokens instead of one",
        lambda: replaced(sampling, "keep_top_p", _p_none_left),
        needs=frozenset({"top_p 0"}),
    ),
    _any(
        "top-p-before-top-k",
        "top_p comes before top_k",
        lambda: _reordered("temperature", "top_p", "top_k", "min_p"),
        seam="generation.top_k|generation.top_p",
        needs=frozenset({"drawing", "top_k", "top_p", "top_k and top_p"}),
    ),
    _any(
        "temperature-last",
        "the temperature comes after the other steps",
        lambda: _reordered("top_k", "top_p", "min_p", "temperature"),
        seam="generation.top_k|generation.top_p|generation.min_p|generation.temperature",
        needs=frozenset({"drawing", "temperature", "top_p"}),
    ),
    _min_p(
        "min-p-absolute",
        "min_p is a probability, not a share of the likeliest token's",
        lambda: replaced(sampling, "keep_min_p", _min_p_absolute),
    ),
    _min_p("min-p-of-logits", "min_p compares logits", lambda: replaced(sampling, "keep_min_p", _min_p_of_logits)),
    _min_p(
        "min-p-doubled", "the limit of min_p is twice as high", lambda: replaced(sampling, "keep_min_p", _min_p_strict)
    ),
    _min_p("min-p-ignored", "min_p is not used", lambda: _settings(lambda config: replace(config, min_p=0.0))),
    _draw(
        "draw-without-softmax",
        "tokens are drawn by their scores, not by their probabilities",
        lambda: altered("generation.probabilities", lambda value: value.sqrt()),
        seam="generation.probabilities",
    ),
    _draw("draw-takes-likeliest", "drawing takes the likeliest token", lambda: _drawn(_likeliest)),
    _any(
        "greedy-takes-second",
        "greedy takes the second most likely token",
        lambda: _drawn(_least_likely_when_equal),
        seam="generation.tokens",
        needs=frozenset({"greedy"}),
    ),
    _draw("draw-one-generator", "all rows draw from one generator", lambda: _drawn(_one_generator), needs=_DRAWN_ROWS),
    _draw("draw-of-row-0", "every row gets the token of row 0", lambda: _drawn(_drawn_by_row_0), needs=_DRAWN_ROWS),
    _draw(
        "seed-ignored",
        "every request draws with the same seed",
        lambda: _generators(lambda original, rows, _seed: original(rows, 0)),
        needs=frozenset({"drawing", "seeds"}),
    ),
    _draw(
        "rows-share-a-seed",
        "every row draws with the same seed",
        lambda: _generators(lambda original, rows, seed: [original(1, seed)[0] for _ in range(rows)]),
        needs=_DRAWN_ROWS,
    ),
    _draw(
        "seed-of-row-plus-one",
        "row r draws with seed + r, so that neighbouring requests draw alike",
        lambda: _generators(lambda original, rows, seed: [original(1, seed + row)[0] for row in range(rows)]),
        needs=_DRAWN_ROWS,
    ),
)
