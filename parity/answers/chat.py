"""A conversation with the port. Answers are streamed and timed. Needs no transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from port import GenerationConfig, Inputs, Processor, Qwen3VL, Step, generate


@dataclass
class ChatAnswer:
    """One answer, its tokens and its times. ``prefill_seconds`` is the time until the first token."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    vision_tokens: int = 0
    processor_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    ended: bool = False

    def add(self, piece: str) -> Iterator[str]:
        """Append a piece of text, and yield it unless it is empty."""
        self.text += piece
        if piece:
            yield piece

    def speed(self) -> str:
        """Describe the number of tokens and the speed in one line."""
        read = f"{self.prompt_tokens} prompt tokens ({self.vision_tokens} of pictures and videos)"
        prefill = f"{read} in {self.prefill_seconds:.2f} s: {_rate(self.prompt_tokens, self.prefill_seconds)}"
        later = len(self.tokens) - 1
        decode = f"{len(self.tokens)} new tokens, {_rate(later, self.decode_seconds)}" if later > 0 else "1 new token"
        cut = "" if self.ended else ", cut off by --max-new-tokens"
        return f"processor {self.processor_seconds:.2f} s; {prefill}; {decode}{cut}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ChatAnswer.__dataclass_fields__}


class Chat:
    """A conversation with one model. The whole conversation is prefilled again for every question."""

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        config: GenerationConfig,
        *,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        self.model, self.processor, self.config, self.seed, self.chunk = model, processor, config, seed, chunk
        self.messages: list[dict[str, Any]] = []

    def ask(self, content: Sequence[dict[str, Any]], answer: ChatAnswer) -> Iterator[str]:
        """Yield pieces of the answer's text as they are generated, and fill ``answer``."""
        start = time.perf_counter()
        inputs = self.processor([[*self.messages, {"role": "user", "content": list(content)}]])
        answer.processor_seconds = time.perf_counter() - start
        answer.prompt_tokens, answer.vision_tokens = inputs.input_ids.shape[1], self._vision_tokens(inputs)
        stream = self.processor.tokenizer.stream()
        for step, seconds in _timed(generate(self.model, inputs, self.config, chunk=self.chunk, seed=self.seed)):
            if answer.tokens:
                answer.decode_seconds += seconds
            else:
                answer.prefill_seconds = seconds
            (token,) = step.tokens
            assert token is not None, "one row: the loop ends when it does"
            answer.tokens.append(token)
            answer.ended = token in self.config.eos_token_ids
            yield from answer.add(stream.push(token))
        # The last bytes may not form a complete character.
        whole = self.processor.decode(answer.tokens)
        if whole.startswith(answer.text):
            yield from answer.add(whole.removeprefix(answer.text))

    def remember(self, content: Sequence[dict[str, Any]], answer: ChatAnswer) -> None:
        """Add a question and its answer, complete or interrupted, to the conversation."""
        self.messages += [
            {"role": "user", "content": list(content)},
            {"role": "assistant", "content": [{"type": "text", "text": answer.text}]},
        ]

    def _vision_tokens(self, inputs: Inputs) -> int:
        config = self.model.config
        return int(torch.isin(inputs.input_ids, torch.tensor([config.image_token_id, config.video_token_id])).sum())


def _timed(steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """Yield each step with the seconds that it took. The time that the caller takes to show it is not counted."""
    while True:
        start = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        yield step, time.perf_counter() - start


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s" if seconds > 0 else "too fast to measure"
