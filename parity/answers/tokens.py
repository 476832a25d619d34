"""Compares the port's greedy tokens with another engine's. For engines that give tokens but no seams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.core.verdict import Verdict
from parity.engines.port import PortEngine
from parity.engines.questions import AnsweringEngine, Question
from parity.runs.loader import Loader
from reference.media import PicturePath
from reference.processor import Part


@dataclass(frozen=True)
class TokenComparison:
    """The tokens of both sides. The port stops at the first difference, because the contexts differ after it.

    ``largest_difference`` is the largest difference between log-probabilities of the port and of the engine, None if
    the engine gives none.
    """

    engine: str
    prompt: str
    port_prompt_tokens: int
    engine_prompt_tokens: int
    port_tokens: Sequence[int]
    engine_tokens: Sequence[int]
    largest_difference: float | None

    @property
    def verdict(self) -> Verdict:
        """PARITY if the prompts have the same length and all tokens are the same."""
        lengths = self.port_prompt_tokens == self.engine_prompt_tokens
        return Verdict.PARITY if lengths and self.port_tokens == self.engine_tokens else Verdict.DIVERGED


def compare_tokens(
    engine: AnsweringEngine, folder: Path, prompt: str, *, images: Sequence[Path], steps: int, loader: Loader
) -> TokenComparison:
    """Run the port (float32) and an engine on one prompt. The reference's processor prepares the port's prompt."""
    (answer,) = engine.answer(folder, [Question.about(prompt, images)], max_new_tokens=steps, ignore_end=True)
    row: list[Part] = [*(PicturePath(path) for path in images), prompt]
    inputs = loader.processor(folder).prepare([row], padding_side="left")
    session = PortEngine(loader.port(folder, "float32")).session(inputs, steps=steps)
    logits = session.prefill()[:, -1]
    tokens: list[int] = []
    differences: list[float] = []
    for token in answer.tokens:
        logprobs = torch.log_softmax(logits[0].double(), dim=-1)
        differences += [abs(float(logprobs[other]) - value) for other, value in token.top.items()]
        tokens.append(int(logits.argmax()))
        if tokens[-1] != token.token_id or len(tokens) == steps:
            break
        logits = session.decode(logits.argmax(dim=-1, keepdim=True))[:, -1]
    return TokenComparison(
        engine.title,
        prompt,
        int(inputs["attention_mask"].sum()),
        answer.prompt_tokens,
        tokens,
        [token.token_id for token in answer.tokens],
        max(differences, default=None),
    )
