"""The two engines of this repository behind one protocol: the port, and the reference.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from port import Inputs, Qwen3VL, listening
from reference.capture import capturing, send_state
from reference.float64 import true_float64
from reference.model import Attention, ReferenceModel, State

# What a sink returns instead of None, the engine goes on with.
Sink = Callable[[str, Tensor], Tensor | None]
TensorMap = Mapping[str, Tensor]


class Session(Protocol):
    """One request: a prefill and the decode steps after it."""

    def prefill(self) -> Tensor:
        """All logits (B, S, V) of the prompts."""
        ...

    def decode(self, token_ids: Tensor) -> Tensor:
        """Logits (B, 1, V) of the next tokens (B, 1)."""
        ...


class Engine(Protocol):
    """What can be traced and timed."""

    @property
    def name(self) -> str: ...

    @property
    def detail(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        """A fresh request with room for ``steps`` decode steps."""
        ...

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        """Run a request, every seam to ``sink``; see ``run_steps`` for tokens."""
        ...

    def vision(self, inputs: TensorMap) -> None:
        """The vision tower alone, on all pictures and videos; for timing."""
        ...


def run_steps(session: Session, inputs: TensorMap, tokens: Tensor | None, *, steps: int) -> Tensor:
    """Prefill and ``steps`` decode steps, fed with ``tokens`` (B, steps), or greedily where it is None.

    Returns the tokens fed (B, steps). Rows padded on the right go on from their last real token.
    """
    logits = session.prefill()
    mask = inputs["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)  # (B,)
    following = logits[torch.arange(len(last)), last].argmax(dim=-1, keepdim=True)  # (B, 1)
    fed = []
    for step in range(steps):
        token = following if tokens is None else tokens[:, step : step + 1]
        fed.append(token)
        following = session.decode(token)[:, -1].argmax(dim=-1, keepdim=True)
    return torch.cat(fed, dim=1) if fed else torch.zeros(len(last), 0, dtype=torch.long)


class PortEngine:
    """The from-scratch port."""

    name = "port"

    def __init__(self, model: Qwen3VL, *, chunk: int | None = None) -> None:
        self.model = model
        self.chunk = chunk

    @property
    def detail(self) -> str:
        return f"qwen3vl-parity {version('qwen3vl-parity')}"

    @property
    def dtype(self) -> str:
        return dtype_word(self.model.dtype)

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        return _PortSession(self.model, Inputs(**inputs), steps=steps, chunk=self.chunk)

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        def listen(name: str, tensor: Tensor) -> Tensor:
            replaced = sink(name, tensor)
            return tensor if replaced is None else replaced

        with listening(listen):
            return run_steps(self.session(inputs, steps=steps), inputs, tokens, steps=steps)

    @torch.no_grad()
    def vision(self, inputs: TensorMap) -> None:
        for pixels, grids in _pictures(inputs):
            self.model.model.visual(pixels, grids)


class _PortSession:
    def __init__(self, model: Qwen3VL, inputs: Inputs, *, steps: int, chunk: int | None) -> None:
        self.model, self.inputs, self.chunk = model, inputs, chunk
        batch, tokens = inputs.input_ids.shape
        self.cache = model.new_cache(batch, tokens + steps)

    @torch.no_grad()
    def prefill(self) -> Tensor:
        return self.model.prefill(self.inputs, self.cache, chunk=self.chunk)

    @torch.no_grad()
    def decode(self, token_ids: Tensor) -> Tensor:
        return self.model.decode(token_ids, self.cache)


@dataclass
class ReferenceEngine:
    """The reference, in one of its correct variants.

    ``nudge`` (a seed) moves pixels and token embeddings by one ulp, up or down; ``threads`` sets the threads of a
    traced run. Both leave a correct computation; what they change is noise. ``exact`` traces in true float64.
    """

    model: ReferenceModel
    attention: Attention = "eager"
    nudge: int | None = None
    threads: int | None = None
    exact: bool = False
    name: str = "transformers"

    @property
    def detail(self) -> str:
        return f"{self.model.version}, {self.variant}"

    @property
    def variant(self) -> str:
        """What sets this run apart, in words."""
        parts: list[str] = [self.attention]
        if self.exact:
            parts.append("true float64")
        if self.nudge is not None:
            parts.append("inputs moved by one ulp")
        if self.threads is not None:
            parts.append(f"{self.threads} thread" + ("s" if self.threads > 1 else ""))
        return ", ".join(parts)

    @property
    def dtype(self) -> str:
        return "float64" if self.exact else dtype_word(self.model.dtype)

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        self.model.use_attention(self.attention)
        return _ReferenceSession(self.model, inputs)

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        self.model.use_attention(self.attention)
        with ExitStack() as stack:
            if self.exact:
                stack.enter_context(true_float64(self.model))
            if self.nudge is not None:
                # Before the capture, so that the seams show the moved inputs.
                _nudge_inputs(self.model.model, self.nudge, stack)
            stack.enter_context(capturing(self.model, sink))
            if self.threads is not None:
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(self.threads)
            return run_steps(_ReferenceSession(self.model, inputs, sink), inputs, tokens, steps=steps)

    @torch.no_grad()
    def vision(self, inputs: TensorMap) -> None:
        self.model.use_attention(self.attention)
        visual = self.model.model.model.visual
        for pixels, grids in _pictures(inputs):
            visual(pixels.to(visual.dtype), grid_thw=grids)


class _ReferenceSession:
    def __init__(self, model: ReferenceModel, inputs: TensorMap, sink: Sink | None = None) -> None:
        self.model, self.inputs, self.sink = model, inputs, sink
        self.state: State | None = None

    def prefill(self) -> Tensor:
        logits, self.state = self.model.prefill(self.inputs)
        if self.sink is not None:
            send_state(self.state, self.sink, prefill=True)
        return logits

    def decode(self, token_ids: Tensor) -> Tensor:
        if self.state is None:
            raise RuntimeError("decode before prefill")
        logits = self.model.decode(token_ids, self.state)
        if self.sink is not None:
            send_state(self.state, self.sink, prefill=False)
        return logits


def _nudge_inputs(model: Any, seed: int, stack: ExitStack) -> None:
    """Move the pixels that enter the vision tower and the token embeddings by one ulp, up or down at random."""
    generator = torch.Generator().manual_seed(seed)

    def pixels(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (moved(args[0], generator), *args[1:])

    def embeddings(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return moved(output, generator)

    inner = model.model
    stack.callback(inner.visual.patch_embed.register_forward_pre_hook(pixels).remove)
    stack.callback(inner.language_model.embed_tokens.register_forward_hook(embeddings).remove)


def moved(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Every number replaced by a neighbouring float, above or below at random."""
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    target = torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)
    return torch.nextafter(tensor, target)


def dtype_word(dtype: torch.dtype) -> str:
    """torch.float32 -> float32"""
    return str(dtype).removeprefix("torch.")


def _pictures(inputs: TensorMap) -> Iterator[tuple[Tensor, Tensor]]:
    for pixels, grids in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if pixels in inputs:
            yield inputs[pixels], inputs[grids]
