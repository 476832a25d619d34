"""Greedy tokens of the port beside another engine's: the check for engines that give tokens but no seams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from parity.qwen3vl.engines import PortEngine
from parity.qwen3vl.mistralrs import Answer, generate
from parity.qwen3vl.workbench import Workbench
from reference.processor import Part, PicturePath


@dataclass(frozen=True)
class GreedyComparison:
    """Token by token, until the first difference: after it the two have different prompts."""

    answer: Answer
    prompt_tokens: int
    port_tokens: list[int]
    engine_tokens: list[int]
    logprob_differences: list[float]  # largest |port - engine| over the engine's top tokens, at each step

    @property
    def same(self) -> bool:
        return self.port_tokens == self.engine_tokens and self.prompt_tokens == self.answer.prompt_tokens


def compare_greedy(folder: Path, prompt: str, *, images: list[Path], steps: int, bench: Workbench) -> GreedyComparison:
    """Run the port (float32) and mistral.rs on one prompt; the port's prompt comes from the reference's processor."""
    answer = generate(folder, prompt, images=images, steps=steps)
    processor = bench.processor(folder, "float32")
    row: list[Part] = [*(PicturePath(path) for path in images), prompt]
    inputs = processor.prepare([row], padding_side="left")
    session = PortEngine(bench.port(folder, "float32")).session(inputs, steps=steps)
    logits = session.prefill()[:, -1]
    tokens, differences = [], []
    for step in answer.steps:
        logprobs = torch.log_softmax(logits[0].double(), dim=-1)
        differences.append(max(abs(float(logprobs[token]) - value) for token, value in step.top.items()))
        tokens.append(int(logits.argmax()))
        if tokens[-1] != step.token_id or len(tokens) == steps:
            break
        logits = session.decode(logits.argmax(dim=-1, keepdim=True))[:, -1]
    engine = [step.token_id for step in answer.steps]
    return GreedyComparison(answer, int(inputs["attention_mask"].sum()), tokens, engine, differences)
