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

    Returns the fed tokens (B, steps), on the CPU; ``inputs`` and ``tokens`` may be on any device. Rows padded on the
    right continue from their last real token.
    """
    following = last_logits(session.prefill(), inputs["attention_mask"]).argmax(dim=-1, keepdim=True)  # (B, 1)
    fed = []
    for step in range(steps):
        token = following if tokens is None else tokens[:, step : step + 1]
        fed.append(token)
        following = session.decode(token)[:, -1].argmax(dim=-1, keepdim=True)
    if not fed:
        return torch.zeros(len(following), 0, dtype=torch.long)
    return torch.cat(fed, dim=1).cpu()


def last_real_token(attention_mask: Tensor) -> Tensor:
    """Return the index (B,) of each row's last token that is not padding, from the mask (B, S)."""
    return attention_mask.shape[1] - 1 - attention_mask.flip(1).int().argmax(dim=1)


def last_logits(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the logits (B, V) of each row's last real token, from all logits (B, S, V). The mask may be elsewhere."""
    last = last_real_token(attention_mask).to(logits.device)  # (B,)
    return logits[torch.arange(len(last), device=logits.device), last]


def on_device(inputs: TensorMap, device: torch.device) -> dict[str, Tensor]:
    """Return the inputs on a device. Those that are there already are not copied."""
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def tower_inputs(inputs: TensorMap) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pixels and grids of the pictures, then of the videos, if there are any."""
    for pixels, grids in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if pixels in inputs:
            yield inputs[pixels], inputs[grids]
