"""Compares the port's greedy generation with the reference's own ``generate``, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from parity.runs.inputs import CaseInputs
from port import GenerationConfig, Inputs, Qwen3VL, generate_all
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor


@dataclass(frozen=True)
class Agreement:
    """The tokens of one row from both sides. ``first`` is the index of the first difference, None without any.

    ``margin`` is the difference between the reference's two largest logits at that index. If float32 noise alone
    swapped the two tokens, it is about 1e-5.
    """

    row: int
    port: Sequence[int]
    reference: Sequence[int]
    first: int | None
    margin: float | None


def compare_generation(
    inputs: CaseInputs,
    model: Qwen3VL,
    reference: ReferenceModel,
    processor: ReferenceProcessor,
    *,
    tokens: int,
    eos_token_ids: Sequence[int] = (),
) -> list[Agreement]:
    """Generate ``tokens`` new tokens of every row on both sides, or fewer if a row ends earlier.

    The port runs the batch as it is. The reference's ``generate`` does not support padding on the right; the
    reference then runs each row alone.
    """
    config = GenerationConfig(eos_token_ids=tuple(eos_token_ids))
    found = generate_all(model, Inputs(**inputs.tensors), config, max_new_tokens=tokens, chunk=inputs.chunk)
    reference.use_attention("sdpa")
    batch = inputs.processed.batch
    singles = [processor.prepare([row], padding_side="left") for row in batch.rows]
    if batch.padding_side == "left":
        wanted = reference.generate(inputs.tensors, max_new_tokens=tokens, eos_token_ids=eos_token_ids)
    else:
        wanted = [
            reference.generate(single, max_new_tokens=tokens, eos_token_ids=eos_token_ids)[0] for single in singles
        ]
    rows = []
    for row, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        first = _parting(ours, theirs)
        margin = None if first is None else _margin(reference, singles[row], theirs[:first])
        rows.append(Agreement(row, ours, theirs, first, margin))
    return rows


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    for at, (left, right) in enumerate(zip(ours, theirs, strict=False)):
        if left != right:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def _margin(reference: ReferenceModel, single: dict[str, torch.Tensor], fed: Sequence[int]) -> float:
    """Return the difference between the reference's two largest logits after the prompt and the tokens ``fed``."""
    logits, state = reference.prefill(single)
    for token in fed:
        logits = reference.decode(torch.tensor([[token]]), state)
    top = logits[0, -1].topk(2).values
    return float(top[0] - top[1])
