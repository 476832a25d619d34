"""Faults are planted in the port, and the run must fail at the right seam.

``test_correct_port_passes`` checks that the cases pass without a fault.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import port.cache
import port.config
import port.grid
import port.mrope
import port.text
import port.vision
from parity.cases.case import Case, SeededCheckpoint
from parity.core.verdict import Verdict
from parity.runs.case_run import run_case
from port.errors import InputError
from port.model import Qwen3VL


# `nox -s parity` judges these and all other cases.
@pytest.mark.parametrize(
    "name",
    [
        "text",
        "batch-3",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("photo", "four-pictures", "chunked")),
    ],
)
def test_correct_port_passes(run_port: Any, name: str) -> None:
    result = run_port(name)
    assert result.judgement.verdict is Verdict.PARITY, result.judgement.reason
    assert result.judgement.not_compared == 0


def test_tanh_gelu_in_the_mergers_is_caught_there(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = (
            self.norm(x.view(-1, self.merged_size))
            if self.norm_after_merge
            else self.norm(x).view(-1, self.merged_size)
        )
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))

    monkeypatch.setattr(port.vision.PatchMerger, "forward", forward)
    assert first_divergence("photo") == ("vision.deepstack.0", "prefill, images")


def test_decode_without_rope_delta_is_caught_at_the_first_decode(
    first_divergence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def next_positions(self: Any, tokens: int) -> torch.Tensor:
        return (self.visible.sum(dim=1, keepdim=True) + torch.arange(tokens)).expand(3, -1, -1)

    monkeypatch.setattr(port.cache.KVCache, "next_positions", next_positions)
    assert first_divergence("photo") == ("text.position_ids", "decode 1")


def test_text_alone_cannot_see_a_lost_rope_delta(run_port: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        port.cache.KVCache,
        "next_positions",
        lambda self, tokens: (self.visible.sum(dim=1, keepdim=True) + torch.arange(tokens)).expand(3, -1, -1),
    )
    assert run_port("text").judgement.verdict is Verdict.PARITY


def test_rows_and_columns_swapped_in_text_positions(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = port.mrope.frame_positions
    monkeypatch.setattr(port.mrope, "frame_positions", lambda h, w: original(h, w)[[0, 2, 1]])
    assert first_divergence("photo") == ("text.position_ids", "prefill")


def test_rows_and_columns_swapped_in_vision_rope(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = port.grid.patch_coordinates
    monkeypatch.setattr(port.grid, "patch_coordinates", lambda grids, merge: original(grids, merge).flip(1))
    assert first_divergence("photo") == ("vision.rope_cos", "prefill, images")


def test_rows_and_columns_swapped_in_the_position_table(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = port.grid.interpolation

    def swapped(grids: torch.Tensor, side: int, merge: int, **dtype: Any) -> tuple[torch.Tensor, torch.Tensor]:
        indices, weights = original(grids, side, merge, **dtype)
        return indices % side * side + indices // side, weights

    monkeypatch.setattr(port.grid, "interpolation", swapped)
    assert first_divergence("photo") == ("vision.pos_embed", "prefill, images")


def test_attention_across_frames_is_caught_at_the_boundaries(
    first_divergence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port.grid, "segment_lengths", lambda grids: [t * h * w for t, h, w in grids.tolist()])
    assert first_divergence("video") == ("vision.cu_seqlens", "prefill, videos")


def test_contiguous_mrope_sections_are_caught_at_the_text_rope(
    first_divergence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        port.text, "frequency_axes", lambda sections: torch.arange(3).repeat_interleave(torch.tensor(sections))
    )
    assert first_divergence("photo") == ("text.rope_cos", "prefill")


def test_a_mask_that_shows_the_future(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = port.text.causal_mask

    def leaking(visible: torch.Tensor, tokens: int) -> torch.Tensor:
        mask = original(visible, tokens)
        return mask | visible[:, None, None, :] if tokens > 1 else mask

    monkeypatch.setattr("port.model.causal_mask", leaking)
    assert first_divergence("photo") == ("text.causal_mask", "prefill")


def test_refusing_a_batch_of_two_fails_the_case(run_port: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Qwen3VL.prefill

    def one_row_only(self: Any, inputs: Any, cache: Any, *, chunk: int | None = None) -> torch.Tensor:
        if len(inputs.input_ids) != 1:
            raise InputError(f"batch size {len(inputs.input_ids)} is not supported")
        return original(self, inputs, cache, chunk=chunk)

    monkeypatch.setattr(Qwen3VL, "prefill", one_row_only)
    assert run_port("photo").judgement.verdict is Verdict.PARITY
    judgement = run_port("batch-2-left").judgement
    assert judgement.verdict is Verdict.DIVERGED
    assert "batch size 2 is not supported" in judgement.reason
    assert judgement.seams_compared == 0


@pytest.mark.parametrize("top", [True, False])
def test_tie_flag_read_from_text_config(top: bool, loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(
        "tie",
        "text_config contradicts the top level",
        3,
        SeededCheckpoint("tiny-tied", tied=top, text_tie_flag=not top),
        (("Tied?",),),
        decode_steps=1,
    )
    correct = run_case(case, loader, dtype="float32")
    assert correct.result.judgement.verdict is Verdict.PARITY

    original = port.config.Qwen3VLConfig.from_dict.__func__  # type: ignore[attr-defined]

    def from_text_config(cls: Any, raw: Any, *, where: str = "config") -> Any:
        flag = raw["text_config"]["tie_word_embeddings"]
        return original(cls, {**raw, "tie_word_embeddings": flag}, where=where)

    monkeypatch.setattr(port.config.Qwen3VLConfig, "from_dict", classmethod(from_text_config))
    loader._folder = None  # it may hold the correct port
    result = run_case(case, loader, dtype="float32").result
    assert result.judgement.verdict is Verdict.DIVERGED
    assert "lm_head.weight" in result.judgement.reason


def test_one_wrong_patch_among_many_is_found_and_named(first_divergence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = port.vision.VisionMLP.forward

    def wrong_in_one_patch(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = original(self, x)
        y[137] = y[136]
        return y

    monkeypatch.setattr(port.vision.VisionMLP, "forward", wrong_in_one_patch)
    assert first_divergence("photo") == ("vision.blocks.0.mlp.out", "prefill, images")
