"""The reference as an engine, in several correct variants and in true float64.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from parity.engines.base import Session, Sink, TensorMap, run_steps, tower_inputs
from parity.engines.dtypes import dtype_word
from parity.engines.questions import Answer, Question, in_batches
from port import GenerationConfig
from reference.capture import capturing, send_state
from reference.float64 import true_float64
from reference.media import PicturePath, VideoPath
from reference.model import Attention, ReferenceModel, State
from reference.processor import Part, ReferenceProcessor


@dataclass
class ReferenceEngine:
    """The reference, in one of its correct variants.

    ``nudge`` (a seed) moves pixels and token embeddings by one ulp, up or down; ``threads`` sets the number of threads
    of a traced run. The computation stays correct with both; they only change the noise. ``exact`` traces in true
    float64.
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
        """A description of this variant."""
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
                # Registered before the capture, so that the seams show the moved inputs.
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
        for pixels, grids in tower_inputs(inputs):
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
    """Return the tensor with every number replaced by the next float above or below, at random."""
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    target = torch.where(up, torch.inf, -torch.inf).to(tensor.dtype)
    return torch.nextafter(tensor, target)


class ReferenceAnswers:
    """The reference as an engine that answers questions: its processor and ``generate``, with sdpa, in float32."""

    def __init__(self) -> None:
        self.title = f"transformers {transformers.__version__}"

    def unavailable(self) -> str | None:
        return None

    def reads_mp4(self) -> bool:
        return True

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        model, processor = ReferenceModel.load(folder, attention="sdpa"), ReferenceProcessor.load(folder)
        ends = () if ignore_end else GenerationConfig.from_folder(folder).eos_token_ids
        tokenizer = processor.processor.tokenizer

        def batch(part: Sequence[Question]) -> list[Answer]:
            rows: list[list[Part]] = [
                [*map(PicturePath, question.images), *map(VideoPath, question.videos), question.prompt]
                for question in part
            ]
            inputs = processor.prepare(rows, padding_side="left")
            tokens = model.generate(inputs, max_new_tokens=max_new_tokens, eos_token_ids=ends)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            return [
                Answer.of_tokens(row, tokenizer.decode(row, skip_special_tokens=True), length)
                for row, length in zip(tokens, lengths, strict=True)
            ]

        return in_batches(questions, batch)
