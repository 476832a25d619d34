"""Measures a checkpoint's activations: how peaked logits and attention are, and how large single channels.

Trained networks have peaked logits, attention to few places, and, if they are large, channels with very large numbers.
Seeded weights have little of that, so a parity run on them does not test it.

Shape legend
    B, S, V    batch, prompt tokens, vocabulary
    H, K, D    query heads, kv heads, head_dim
    N, L       patches, patches of one segment
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import torch
from torch import Tensor

from parity.engines.base import last_real_token
from parity.engines.port import PortEngine
from parity.runs.inputs import CaseInputs
from port import Qwen3VL


@dataclass(frozen=True)
class Activations:
    """Figures of one prefill. Entropies are in nats. Attention figures are over all heads, layers and real tokens.

    ``logits_entropy``, ``top1``: mean entropy of the next-token distribution, mean probability of its largest.
    ``answer_top1``: the latter at the last token of each prompt, where the answer begins.
    ``text_attention``, ``vision_attention``: mean entropy of an attention row over that of an even row (1: even).
    ``text_peak``, ``vision_peak``: mean largest weight of an attention row, divided by the weight in an even row.
    ``text_outlier``, ``vision_outlier``: largest number of the residual stream, divided by its root mean square.
    ``text_stream``, ``vision_stream``: root mean square of the residual stream after the last layer or block.
    """

    logits_entropy: float
    top1: float
    answer_top1: float
    text_attention: float
    text_peak: float
    text_outlier: float
    vision_attention: float | None
    vision_peak: float | None
    vision_outlier: float | None
    text_stream: float
    vision_stream: float | None


def measure_activations(model: Qwen3VL, inputs: CaseInputs) -> Activations:
    """Run a prefill of the port and measure its activations."""
    listener = _Listener(inputs.tensors["attention_mask"].bool())
    PortEngine(model).trace(inputs.tensors, None, steps=0, sink=listener)
    return listener.figures()


@dataclass
class _Listener:
    """Collects figures from the taps; tensors are not kept. ``mask`` (B, S) is True at real tokens."""

    mask: Tensor
    found: dict[str, list[float]] = field(default_factory=dict)
    queries: Tensor | None = None
    visible: Tensor | None = None
    boundaries: list[int] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, tensor: Tensor) -> None:
        tensor = tensor.detach()
        if name == "text.causal_mask":
            self.visible = tensor  # (B, 1, S, S)
        elif name == "vision.cu_seqlens":
            self.boundaries = tensor.tolist()
        elif name.endswith("attn.q_rope"):
            self.queries = tensor.float()
        elif name.endswith("attn.k_rope") and self.queries is not None:
            if name.startswith("text."):
                self._text_attention(self.queries, tensor.float())
            else:
                self._vision_attention(self.queries, tensor.float())
        elif name == "logits":
            self._logits(tensor.float())
        elif name.endswith(".out") and name.count(".") == 3:
            tower = name.split(".")[0]
            rows = tensor.float()[self.mask] if tower == "text" else tensor.float()  # (rows, C)
            loudest = rows.abs().amax(dim=1) / rows.square().mean(dim=1).sqrt()
            self._add(f"{tower}_outlier", loudest.max())
            self.last[tower] = float(rows.square().mean().sqrt())

    def figures(self) -> Activations:
        mean = {name: statistics.fmean(values) for name, values in self.found.items()}
        largest = {name: max(values) for name, values in self.found.items()}
        return Activations(
            logits_entropy=mean["entropy"],
            top1=mean["top1"],
            answer_top1=mean["answer_top1"],
            text_attention=mean["text_attention"],
            text_peak=mean["text_peak"],
            text_outlier=largest["text_outlier"],
            vision_attention=mean.get("vision_attention"),
            vision_peak=mean.get("vision_peak"),
            vision_outlier=largest.get("vision_outlier"),
            text_stream=self.last["text"],
            vision_stream=self.last.get("vision"),
        )

    def _add(self, name: str, value: Tensor) -> None:
        self.found.setdefault(name, []).append(float(value))

    def _logits(self, logits: Tensor) -> None:  # (B, S, V)
        probabilities = logits.softmax(dim=-1)
        entropy = -torch.special.xlogy(probabilities, probabilities).sum(dim=-1)  # (B, S)
        top = probabilities.amax(dim=-1)  # (B, S)
        last = last_real_token(self.mask)  # (B,)
        self._add("entropy", entropy[self.mask].mean())
        self._add("top1", top[self.mask].mean())
        self._add("answer_top1", top[torch.arange(len(last)), last].mean())

    def _text_attention(self, queries: Tensor, keys: Tensor) -> None:  # (B, S, H, D), (B, S, K, D)
        if self.visible is None:
            raise RuntimeError("the causal mask was not seen before the layers")
        keys = keys.repeat_interleave(queries.shape[2] // keys.shape[2], dim=2)  # (B, S, H, D)
        scores = torch.einsum("bshd,bthd->bhst", queries, keys) * queries.shape[-1] ** -0.5
        weights = scores.masked_fill(~self.visible, -torch.inf).softmax(dim=-1)  # (B, H, S, S)
        counts = self.visible.sum(dim=-1).expand(weights.shape[:3])  # (B, H, S)
        real = self.mask[:, None, :].expand(weights.shape[:3])
        self._attention("text", weights[real], counts[real])

    def _vision_attention(self, queries: Tensor, keys: Tensor) -> None:  # (N, H, D)
        for start, end in zip(self.boundaries, self.boundaries[1:], strict=False):
            scores = torch.einsum("shd,thd->hst", queries[start:end], keys[start:end]) * queries.shape[-1] ** -0.5
            weights = scores.softmax(dim=-1)  # (H, L, L)
            self._attention("vision", weights.flatten(0, 1), torch.full((weights.shape[:2].numel(),), end - start))

    def _attention(self, tower: str, weights: Tensor, counts: Tensor) -> None:
        """Add weights (rows, keys). ``counts`` (rows,): keys that each row may see; rows with one key are skipped."""
        weights, counts = weights[counts > 1], counts[counts > 1]
        if not len(counts):
            return
        entropy = -torch.special.xlogy(weights, weights).sum(dim=-1)
        self._add(f"{tower}_attention", (entropy / counts.log()).mean())
        self._add(f"{tower}_peak", (weights.amax(dim=-1) * counts).mean())
