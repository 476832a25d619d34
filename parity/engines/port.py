"""The port as an engine: its processor, its model and its weights.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.cases.media_batch import MediaBatch
from parity.engines.base import Session, Sink, TensorMap, on_device, run_steps, tower_inputs
from parity.engines.dtypes import running_dtype
from parity.engines.questions import Answer, Question, in_batches
from parity.kernels.base import Kernels, computing_with
from parity.seams.weights import CONVOLUTION
from port import GenerationConfig, Inputs, Processor, Qwen3VL, generate_all, listening, load_model
from port.prompt import VideoStyle
from port.weights import LM_HEAD, checkpoint_name
from reference.media import Prompting
from reference.version import transformers_major

VERSION = f"qwen3vl-parity {version('qwen3vl-parity')}"
CONVOLUTION_WEIGHT = "model.visual.patch_embed.proj.weight"


def replacing(sink: Sink) -> Callable[[str, Tensor], Tensor]:
    """Return a listener for the port's taps. A tensor that ``sink`` returns replaces the value."""

    def listen(name: str, tensor: Tensor) -> Tensor:
        replaced = sink(name, tensor)
        return tensor if replaced is None else replaced

    return listen


class PortProcessor:
    """The port's processor."""

    name, detail, dtype = "port", VERSION, "float32"

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def process(self, batch: MediaBatch, sink: Sink) -> None:
        """Process the batch, and send every value with its seam's name to ``sink``."""
        with listening(replacing(sink)):
            self.processor(batch.conversations, padding_side=batch.padding_side, **prompting_arguments(batch.prompting))


def prompting_arguments(prompting: Prompting) -> dict[str, Any]:
    """Return the arguments of the port's processor."""
    return {
        "add_generation_prompt": prompting.generation_prompt,
        "tools": [json.loads(tool) for tool in prompting.tools] or None,
        "variables": dict(prompting.variables) or None,
    }


class PortEngine:
    """The port's model. ``chunk`` is the number of tokens that it prefills at once; None: all.

    ``kernels`` computes its sums with other kernels than torch's.
    """

    name, detail = "port", VERSION

    def __init__(self, model: Qwen3VL, *, chunk: int | None = None, kernels: Kernels | None = None) -> None:
        self.model = model
        self.chunk = chunk
        self.kernels = kernels

    @property
    def dtype(self) -> str:
        return running_dtype(self.model)

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        return _PortSession(self.model, Inputs(**inputs).to(self.model.device), steps=steps, chunk=self.chunk)

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        with nullcontext() if self.kernels is None else computing_with(self.kernels), listening(replacing(sink)):
            return run_steps(self.session(inputs, steps=steps), inputs, tokens, steps=steps)

    @torch.no_grad()
    def vision(self, inputs: TensorMap) -> None:
        for pixels, grids in tower_inputs(on_device(inputs, self.model.device)):
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
        return self.model.decode(token_ids.to(self.model.device), self.cache)

    def rewind(self) -> None:
        self.cache.length = self.inputs.input_ids.shape[1]


class PortWeights:
    """The port's tensors, in the checkpoint's own dtype. ``load`` is called when they are needed."""

    name, detail = "port", "its own tensors"

    def __init__(self, load: Callable[[], Qwen3VL], dtype: str) -> None:
        self._load, self.dtype = load, dtype

    @torch.no_grad()
    def send(self, patches: Tensor, sink: Sink, *, head: bool) -> None:
        """Send every tensor with its checkpoint name to ``sink``, then the patch embedding of ``patches``.

        With ``head``, a tied model also sends its matrix as ``lm_head.weight``. Raises the errors of ``load``.
        """
        model = self._load()
        for name, tensor in tensors_of(model).items():
            if name != LM_HEAD or head or not model.config.tie_word_embeddings:
                sink(name, tensor)
        sink(CONVOLUTION.name, model.model.visual.patch_embed.proj(patches.to(model.device)).flatten(1))


def tensors_of(model: Qwen3VL) -> dict[str, Tensor]:
    """Return the port's tensors with their names and shapes in the checkpoint."""
    tensors: dict[str, Tensor] = {checkpoint_name(name): parameter for name, parameter in model.named_parameters()}
    tensors[CONVOLUTION_WEIGHT] = model.model.visual.patch_embed.proj.weight()
    tensors[LM_HEAD] = model.output_weight()
    return tensors


def port_processor(folder: Path, *, turn_tokens: bool = False) -> Processor:
    """Load the port's processor. It writes videos into prompts as the installed transformers does."""
    style: VideoStyle = "inside" if transformers_major() >= 5 else "in place"
    return Processor.load(folder, video_style=style, allow_turns=turn_tokens)


class PortAnswers:
    """The port as an engine that answers questions. It uses its own processor and generation, in float32."""

    title = "port"

    def unavailable(self) -> str | None:
        return None

    def reads_mp4(self) -> bool:
        return True

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        model, processor = load_model(folder), port_processor(folder)
        config = GenerationConfig(
            eos_token_ids=() if ignore_end else GenerationConfig.from_folder(folder).eos_token_ids
        )

        def batch(part: Sequence[Question]) -> list[Answer]:
            inputs = processor([[question.message()] for question in part])
            rows = generate_all(model, inputs, config, max_new_tokens=max_new_tokens)
            lengths = inputs.attention_mask.sum(dim=1).tolist()
            return [
                Answer.of_tokens(row, processor.decode(row), length) for row, length in zip(rows, lengths, strict=True)
            ]

        return in_batches(questions, batch)
