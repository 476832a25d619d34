"""Generation: prefill, then token by token until every row has ended.

Shape legend
    B, S   rows, tokens of the longest prompt
    V      vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from port.errors import InputError
from port.generation_config import GenerationConfig
from port.model import Inputs, Qwen3VL
from port.sampling import TAP, adjusted, choose, mark_seen, row_generators


@dataclass(frozen=True)
class Step:
    """One new token for each row. It is None for a row that ended earlier; the token that ends a row is included."""

    tokens: tuple[int | None, ...]


def generate(
    model: Qwen3VL,
    inputs: Inputs,
    config: GenerationConfig,
    *,
    max_new_tokens: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Iterator[Step]:
    """Yield the new tokens one step at a time, at most ``max_new_tokens`` (default: the config's) for each row.

    Decoding is greedy unless ``config.do_sample`` is set. With it, the same ``seed`` gives the same tokens. Each row
    has its own random generator, so other rows in the batch change nothing but the rounding of its logits. Prompts
    may be padded on either side (transformers' ``generate`` supports only left padding). They are prefilled ``chunk``
    tokens at a time. The KV cache is allocated once. Rows that have ended stay in the batch until the last one ends;
    their further tokens are not used. ``inputs`` may be on any device; numbers are drawn on the CPU, the same ones
    whatever the model's device. Raises InputError for inputs that do not fit the model, and if logits are NaN or
    infinite.
    """
    most = config.max_new_tokens if max_new_tokens is None else max_new_tokens
    if most is None:
        raise InputError("max_new_tokens is given neither here nor in the config; pass max_new_tokens")
    if most < 1:
        raise InputError(f"max_new_tokens is {most}; it must be at least 1")
    if inputs.input_ids.ndim != 2:
        raise InputError(f"input_ids {tuple(inputs.input_ids.shape)} must be (batch, tokens)")
    return _steps(model, inputs, config, most, chunk, seed)


def generate_all(
    model: Qwen3VL,
    inputs: Inputs,
    config: GenerationConfig,
    *,
    max_new_tokens: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The new tokens of every row, including the one that ended it. Takes the arguments of ``generate``."""
    rows: list[list[int]] = [[] for _ in inputs.input_ids]
    for step in generate(model, inputs, config, max_new_tokens=max_new_tokens, chunk=chunk, seed=seed):
        for row, token in zip(rows, step.tokens, strict=True):
            if token is not None:
                row.append(token)
    return rows


def _steps(
    model: Qwen3VL, inputs: Inputs, config: GenerationConfig, most: int, chunk: int | None, seed: int
) -> Iterator[Step]:
    inputs = inputs.to(model.device)
    batch, tokens = inputs.input_ids.shape
    # The last token is never fed back.
    cache = model.new_cache(batch, tokens + most - 1)
    generators = row_generators(batch, seed)
    ended = torch.zeros(batch, dtype=torch.bool)
    with torch.inference_mode():
        logits = model.prefill_last(inputs, cache, chunk=chunk)  # (B, V)
        seen = None
        if config.repetition_penalty != 1:
            seen = mark_seen(torch.zeros_like(logits, dtype=torch.bool), inputs.input_ids, inputs.attention_mask)
    for count in range(1, most + 1):
        with torch.inference_mode():
            _check(logits, count)
            logits = TAP("logits", logits)
            chosen = TAP("tokens", choose(adjusted(logits, config, seen), config, generators))  # (B,)
            if seen is not None:
                seen = mark_seen(seen, chosen.unsqueeze(1))
        found = chosen.tolist()
        yield Step(tuple(None if over else token for token, over in zip(found, ended.tolist(), strict=True)))
        at_end = torch.tensor([count == most or token in config.eos_token_ids for token in found])  # (B,)
        ended = TAP("ended", ended | at_end)
        if bool(ended.all()):
            return
        with torch.inference_mode():
            logits = model.decode(chosen.unsqueeze(1), cache)[:, 0]  # (B, V)


def _check(logits: Tensor, count: int) -> None:
    rows = (~logits.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if rows:
        raise InputError(
            f"the logits of new token {count} hold NaN or Inf in rows {rows}; the weights are damaged, or "
            f"{logits.dtype} is too narrow for this model: try bfloat16 or float32"
        )
