"""The interfaces of engines. See ``questions`` for engines that answer questions.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

# If a sink returns a tensor, the engine continues with that tensor.
Sink = Callable[[str, Tensor], Tensor | None]
TensorMap = Mapping[str, Tensor]


class Engine(Protocol):
    """An engine: its name, a detail that distinguishes its runs, and its dtype."""

    @property
    def name(self) -> str: ...

    @property
    def detail(self) -> str: ...

    @property
    def dtype(self) -> str: ...


class Session(Protocol):
    """One request: a prefill and the decode steps after it."""

    def prefill(self) -> Tensor:
        """Return all logits (B, S, V) of the prompts."""
        ...

    def decode(self, token_ids: Tensor) -> Tensor:
        """Feed the next tokens (B, 1). Returns logits (B, 1, V)."""
        ...

    def rewind(self) -> None:
        """Go back to the state after the prefill, as if nothing had been decoded. Used for timing."""
        ...


class ModelEngine(Engine, Protocol):
    """A model that can be traced and timed."""

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        """Start a new request with room for ``steps`` decode steps."""
        ...

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        """Run a request and send every seam to ``sink``. See ``run_steps`` for ``tokens``."""
        ...

    def vision(self, inputs: TensorMap) -> None:
        """Run only the vision tower, on all pictures and videos. Used for timing."""
        ...


def run_steps(session: Session, inputs: TensorMap, tokens: Tensor | None, *, steps: int) -> Tensor:
    """Run a prefill and ``steps`` decode steps, fed with ``tokens`` (B, steps), or greedily if it is None.

    Returns the fed tokens (B, steps). Rows padded on the right continue from their last real token.
    """
    logits = session.prefill()
    last = last_real_token(inputs["attention_mask"])  # (B,)
    following = logits[torch.arange(len(last)), last].argmax(dim=-1, keepdim=True)  # (B, 1)
    fed = []
    for step in range(steps):
        token = following if tokens is None else tokens[:, step : step + 1]
        fed.append(token)
        following = session.decode(token)[:, -1].argmax(dim=-1, keepdim=True)
    return torch.cat(fed, dim=1) if fed else torch.zeros(len(last), 0, dtype=torch.long)


def last_real_token(attention_mask: Tensor) -> Tensor:
    """Return the index (B,) of each row's last token that is not padding, from the mask (B, S)."""
    return attention_mask.shape[1] - 1 - attention_mask.flip(1).int().argmax(dim=1)


def tower_inputs(inputs: TensorMap) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pixels and grids of the pictures, then of the videos, if there are any."""
    for pixels, grids in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if pixels in inputs:
            yield inputs[pixels], inputs[grids]
