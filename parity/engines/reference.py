"""The reference as an engine, in several correct variants and in true float64.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.engines.base import Session, Sink, TensorMap, last_logits, on_device, run_steps, tower_inputs
from parity.engines.dtypes import running_dtype
from parity.engines.questions import Answer, Question, in_batches
from parity.kernels.base import Kernels, computing_with
from reference.capture import capturing, send_state
from reference.float64 import true_float64
from reference.generation import end_tokens
from reference.model import Attention, ReferenceModel, State
from reference.nudge import nudged
from reference.processor import ReferenceProcessor


@dataclass
class ReferenceEngine:
    """The reference, in one of its correct variants.

    ``nudge`` (a seed) moves inputs and constants by one ulp, see ``reference.nudge``; ``kernels`` computes
    its sums with other kernels than torch's; ``threads`` sets the number of threads of a traced run; ``unfused``
    computes sdpa from single products and a softmax. The computation stays correct with all of them; they only change
    the noise. ``exact`` traces in true float64, on the CPU if the model's device has no float64.
    """

    model: ReferenceModel
    attention: Attention = "eager"
    nudge: int | None = None
    threads: int | None = None
    exact: bool = False
    kernels: Kernels | None = None
    unfused: bool = False
    name: str = "transformers"

    @property
    def detail(self) -> str:
        return f"{self.model.version}, {self.variant}"

    @property
    def variant(self) -> str:
        """A description of this variant."""
        parts: list[str] = [self.attention]
        if self.unfused:
            parts.append("unfused")
        if self.exact:
            parts.append("true float64")
        if self.kernels is not None:
            parts.append(self.kernels.name)
        if self.nudge is not None:
            parts.append("inputs moved by one ulp")
        if self.threads is not None:
            parts.append(f"{self.threads} thread" + ("s" if self.threads > 1 else ""))
        return ", ".join(parts)

    @property
    def dtype(self) -> str:
        return "float64" if self.exact else running_dtype(self.model)

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        self.model.use_attention(self.attention)
        return _ReferenceSession(self.model, inputs)

    def trace(self, inputs: TensorMap, tokens: Tensor | None, *, steps: int, sink: Sink) -> Tensor:
        with self._computing() as model, capturing(model, sink):
            return run_steps(_ReferenceSession(model, inputs, sink), inputs, tokens, steps=steps)

    def generate(self, inputs: TensorMap, choose: Callable[[Tensor], Tensor | None]) -> None:
        """Generate: ``choose`` gets the logits (B, V) after each row's last token, and returns the next tokens (B,).

        It returns None to stop. Logits and tokens are on the CPU, whatever the model's device.
        """
        with self._computing() as model:
            session = _ReferenceSession(model, inputs)
            logits = last_logits(session.prefill(), inputs["attention_mask"])
            while (tokens := choose(logits.cpu())) is not None:
                logits = session.decode(tokens.unsqueeze(1))[:, 0]

    @contextmanager
    def _computing(self) -> Iterator[ReferenceModel]:
        """Compute as this variant does, with the model that is given."""
        model = self.model.in_float64 if self.exact else self.model
        model.use_attention(self.attention)
        with ExitStack() as stack:
            if self.exact:
                stack.enter_context(true_float64(model))
            if self.unfused:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.kernels is not None:
                stack.enter_context(computing_with(self.kernels))
            if self.nudge is not None:
                # Entered before the capture, so that the seams show the moved inputs.
                stack.enter_context(nudged(model, self.nudge))
            if self.threads is not None:
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(self.threads)
            yield model

    @torch.no_grad()
    def vision(self, inputs: TensorMap) -> None:
        self.model.use_attention(self.attention)
        visual = self.model.model.model.visual
        for pixels, grids in tower_inputs(on_device(inputs, self.model.device)):
            visual(pixels.to(visual.dtype), grid_thw=grids)


class _ReferenceSession:
    def __init__(self, model: ReferenceModel, inputs: TensorMap, sink: Sink | None = None) -> None:
        self.model, self.inputs, self.sink = model, on_device(inputs, model.device), sink
        self.state: State | None = None

    def prefill(self) -> Tensor:
        logits, self.state = self.model.prefill(self.inputs)
        if self.sink is not None:
            send_state(self.state, self.sink, prefill=True)
        return logits

    def decode(self, token_ids: Tensor) -> Tensor:
        if self.state is None:
            raise RuntimeError("decode before prefill")
        logits = self.model.decode(token_ids.to(self.model.device), self.state)
        if self.sink is not None:
            send_state(self.state, self.sink, prefill=False)
        return logits

    def rewind(self) -> None:
        if self.state is None:
            raise RuntimeError("rewind before prefill")
        prompt = self.inputs["input_ids"].shape[1]
        decoded = self.state.attention_mask.shape[1] - prompt
        if not decoded:
            return
        self.state.cache.crop(-decoded)
        self.state.attention_mask = self.state.attention_mask[:, :prompt]
        self.state.next_position = self.state.next_position - decoded


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
        ends = () if ignore_end else end_tokens(folder)
        tokenizer = processor.processor.tokenizer

        def batch(part: Sequence[Question]) -> list[Answer]:
            inputs = processor.prepare([question.parts for question in part], padding_side="left")
            tokens = model.generate(inputs, max_new_tokens=max_new_tokens, eos_token_ids=ends)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            return [
                Answer.of_tokens(row, tokenizer.decode(row, skip_special_tokens=True), length)
                for row, length in zip(tokens, lengths, strict=True)
            ]

        return in_batches(questions, batch)
