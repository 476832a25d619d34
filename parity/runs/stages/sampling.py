"""One step of generation by the reference: what follows from the logits of a batch.

Shape legend
    B, V   rows, vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from parity.seams.generation import KEPT
from reference.generation import STEPS, Sampler
from reference.nudge import moved

_MOVED_RUNS = 2


@dataclass(frozen=True)
class Decided:
    """What follows from the logits of a step, by the names of the seams.

    ``undecided`` maps seams of exact values to the rows (B,) bool in which correct runs differ, such as a token whose
    probability is exactly at the limit of top_p.
    """

    values: dict[str, Tensor]
    undecided: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor:
        return self.values["tokens"]


def decide(
    sampler: Sampler, logits: Tensor, rows: Sequence[Tensor], generators: Sequence[torch.Generator], *, nudge: int
) -> Decided:
    """Return the reference's values for logits (B, V), in float64; the tokens are drawn in float32, as it does.

    ``rows`` are the tokens of each row so far, without padding. ``nudge`` is the seed of the moved runs, which show
    what is decided by rounding alone.
    """
    draws = [generator.get_state() for generator in generators]
    narrow = scores_of(sampler, logits.float(), rows)
    narrow["tokens"] = _chosen(sampler, narrow, generators)
    others = [narrow]
    source = torch.Generator().manual_seed(nudge)
    for _ in range(_MOVED_RUNS):
        other = scores_of(sampler, moved(logits.float(), source), rows)
        other["tokens"] = _chosen(sampler, other, [_generator(state) for state in draws])
        others.append(other)
    exact = scores_of(sampler, logits.double(), rows)
    exact["tokens"] = narrow["tokens"] if sampler.do_sample else _chosen(sampler, exact, generators)
    undecided = {}
    for name in (*KEPT, "tokens"):
        if name in exact:
            differs = [(other[name] != exact[name]).reshape(len(rows), -1).any(dim=1) for other in others]
            undecided[name] = torch.stack(differs).any(dim=0)
    return Decided(exact, undecided)


def scores_of(sampler: Sampler, logits: Tensor, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what follows from logits (B, V), in their dtype: scores, which tokens are left, probabilities."""
    steps = [sampler.apply(own, ids) for own, ids in zip(logits, rows, strict=True)]
    after = {name: torch.stack([step[name] for step in steps]) for name in STEPS}  # (B, V) each
    found = {"repetition_penalty": after["repetition_penalty"]}
    if sampler.do_sample:
        found["temperature"] = after["temperature"]
        found |= {name: after[name] > -torch.inf for name in KEPT}
        found["probabilities"] = after[STEPS[-1]].softmax(dim=-1)
    return found


def _chosen(sampler: Sampler, values: dict[str, Tensor], generators: Sequence[torch.Generator]) -> Tensor:
    """(B,): the largest, or drawn from the probabilities with each row's generator."""
    if not sampler.do_sample:
        return values["repetition_penalty"].argmax(dim=-1)
    drawn = [
        torch.multinomial(row, 1, generator=own) for row, own in zip(values["probabilities"], generators, strict=True)
    ]
    return torch.cat(drawn)


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator
