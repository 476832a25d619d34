"""From logits to the next token: pure functions with the order and arithmetic of transformers' logits processors.

Shape legend
    B, V   rows, vocabulary
    S      tokens of a prompt, or 1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from port.errors import InputError
from port.generation_config import GenerationConfig
from port.tap import Tap

_SEEDS = 2**63
# Large, so that rows of neighbouring seeds do not share a generator.
_ROW_STRIDE = 0x5851F42D4C957F2D
TAP = Tap("generation.")


def mark_seen(seen: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """``seen`` (B, V) bool, with the ids in ``tokens`` (B, S) marked as well, except where ``mask`` (B, S) is 0."""
    if mask is None:
        return seen.scatter(1, tokens, True)
    counts = torch.zeros(seen.shape, dtype=torch.long, device=seen.device)
    return seen | (counts.scatter_add(1, tokens, mask.long()) > 0)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """(B, V): logits of the tokens in ``seen`` (B, V) bool divided by ``penalty``, negative ones multiplied.

    arXiv:1909.05858, ``RepetitionPenaltyLogitsProcessor``. Padding does not count as seen; in transformers 4 it does.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """(B, V): all but the ``k`` largest set to -inf; ties with the k-th are kept. ``TopKLogitsWarper``."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """(B, V): keep the likeliest tokens that together reach probability ``p``, at least one. ``TopPLogitsWarper``."""
    ordered, places = logits.sort(descending=False)
    unlikely = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    unlikely[..., -1:] = False
    return logits.masked_fill(unlikely.scatter(-1, places, unlikely), -torch.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """(B, V): keep tokens that are at least ``p`` times as likely as the likeliest. ``MinPLogitsWarper``."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


def adjusted(logits: Tensor, config: GenerationConfig, seen: Tensor | None = None) -> Tensor:
    """(B, V) float32 logits after everything that ``config`` asks for.

    ``seen`` (B, V) marks the tokens of each row; only a repetition penalty needs it. Raises InputError if it is
    needed and not given.
    """
    logits = logits.float()
    if config.repetition_penalty != 1:
        if seen is None:
            raise InputError(f"repetition_penalty is {config.repetition_penalty}; give the tokens seen in each row")
        logits = penalise_repetition(logits, seen, config.repetition_penalty)
    logits = TAP("repetition_penalty", logits)
    if not config.do_sample:
        return logits
    if config.temperature != 1:
        logits = logits / config.temperature
    logits = TAP("temperature", logits)
    if config.top_k:
        logits = keep_top_k(logits, config.top_k)
    logits = TAP("top_k", logits)
    if config.top_p < 1:
        logits = keep_top_p(logits, config.top_p)
    logits = TAP("top_p", logits)
    if config.min_p > 0:
        logits = keep_min_p(logits, config.min_p)
    return TAP("min_p", logits)


def choose(logits: Tensor, config: GenerationConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """(B,) int64 ids from adjusted logits (B, V): the largest, or drawn with each row's own generator.

    Drawing happens on the CPU, so that a seed gives the same tokens on every device.
    """
    if not config.do_sample:
        return logits.argmax(dim=-1)
    rows = TAP("probabilities", logits.softmax(dim=-1)).cpu()
    drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(rows, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def row_generators(rows: int, seed: int) -> list[torch.Generator]:
    """One generator for each row, so that what a row draws does not depend on how many others there are.

    Row 0 uses ``seed`` itself, and draws what transformers draws for a single row after ``torch.manual_seed(seed)``.
    """
    return [torch.Generator().manual_seed((seed + row * _ROW_STRIDE) % _SEEDS) for row in range(rows)]
