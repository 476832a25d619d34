"""Relations over random configs and batches. ``nox -s metamorphic`` runs many more examples than the default."""

from __future__ import annotations

import os
import shlex
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import port.cache
import port.grid
import port.text
import port.vision
from parity.cli.main import main
from parity.relations.relations import AGREEMENT, RELATIONS, command
from parity.relations.spec import FIRST_WORD, Picture, Spec

EXAMPLES = int(os.environ.get("METAMORPHIC_EXAMPLES", "12"))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    integer = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    depth, layers = integer(1, 3), integer(1, 3)
    taps = sorted(draw(st.sets(st.integers(0, depth - 1), max_size=min(depth, layers))))
    heads, kv_heads = integer(1, 3), integer(1, 2)
    h, w = integer(0, 2), integer(0, 2)
    t = integer(max(1, 2 * h - w, 2 * w - h), 4)
    vision_heads = integer(1, 3)
    vocab = integer(12, 30)
    vision = {
        "depth": depth,
        "hidden_size": vision_heads * 4 * integer(1, 2),
        "intermediate_size": integer(3, 9),
        "num_heads": vision_heads,
        "in_channels": integer(1, 4),
        "patch_size": integer(1, 3),
        "temporal_patch_size": integer(1, 3),
        "spatial_merge_size": integer(1, 3),
        "num_position_embeddings": integer(1, 5) ** 2,
        "deepstack_visual_indexes": taps,
    }
    text = {
        "vocab_size": vocab,
        "hidden_size": integer(4, 12),
        "intermediate_size": integer(3, 9),
        "num_hidden_layers": layers,
        "num_attention_heads": heads * kv_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * (t + h + w),
        "rope_theta": 10000.0,
        "rope_scaling": {"mrope_section": [t, h, w], "mrope_interleaved": True, "rope_type": "default"},
    }
    words = st.integers(FIRST_WORD, vocab - 1)
    pictures = st.builds(Picture, st.sampled_from([1, 1, 2, 3]), st.integers(1, 3), st.integers(1, 3))
    row = st.lists(st.one_of(words, pictures), min_size=1, max_size=5)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return Spec(
        integer(0, 1000),
        vision,
        text,
        draw(st.booleans()),
        rows,
        draw(st.sampled_from(["left", "right"])),
        integer(1, 9),
    )


@pytest.mark.parametrize("relation", sorted(RELATIONS))
def test_the_port_keeps_the_relation(relation: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, print_blob=False)
    @given(spec=specs())
    def holds(spec: Spec) -> None:
        assert Spec.from_json(spec.to_json()) == spec
        error = RELATIONS[relation](spec)
        assert error <= AGREEMENT, f"a row is off by {error:.1e}; again with: {command(relation, spec)}"

    with torch.no_grad():
        holds()


def _broken(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Plant a fault that the relation must see."""
    if fault == "rope delta lost":
        positions = lambda self, tokens: (self.visible.sum(1, keepdim=True) + torch.arange(tokens)).expand(3, -1, -1)  # noqa: E731
        monkeypatch.setattr(port.cache.KVCache, "next_positions", positions)
    elif fault == "padding visible":
        original = port.text.causal_mask
        monkeypatch.setattr("port.model.causal_mask", lambda visible, n: original(torch.ones_like(visible), n))
    elif fault == "chunk attends to itself only":
        original = port.text.causal_mask

        def own_chunk(visible: torch.Tensor, n: int) -> torch.Tensor:
            mask = original(visible, n)
            mask[..., : visible.shape[1] - n] = False
            return mask

        monkeypatch.setattr("port.model.causal_mask", own_chunk)
    elif fault == "row 0's padding for all":
        original = port.text.causal_mask
        monkeypatch.setattr("port.model.causal_mask", lambda visible, n: original(visible[:1].expand_as(visible), n))
    elif fault == "segments joined":
        monkeypatch.setattr(port.grid, "segment_lengths", lambda g: [sum(t * h * w for t, h, w in g.tolist())])
    elif fault == "rows read as columns":
        original_axis = port.grid.patch_coordinates
        monkeypatch.setattr(port.grid, "patch_coordinates", lambda g, m: original_axis(g, m)[:, [0, 0]])


@pytest.mark.parametrize(
    ("relation", "fault"),
    [
        ("decode-is-forward", "rope delta lost"),
        ("chunks-are-whole", "chunk attends to itself only"),
        ("rows-are-alone", "padding visible"),
        ("padding-is-unseen", "padding visible"),
        ("rows-can-trade-places", "row 0's padding for all"),
        ("pictures-are-alone", "segments joined"),
        ("transposed-picture", "rows read as columns"),
    ],
)
def test_a_planted_fault_breaks_the_relation(relation: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _example()
    with torch.no_grad():
        assert RELATIONS[relation](spec) <= AGREEMENT
        _broken(monkeypatch, fault)
        assert RELATIONS[relation](spec) > 1e-4


def _example() -> Spec:
    vision: dict[str, Any] = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 9, "num_heads": 2, "in_channels": 3, "patch_size": 2,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text: dict[str, Any] = {
        "vocab_size": 20, "hidden_size": 10, "intermediate_size": 9, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "rope_theta": 10000.0,
        "rope_scaling": {"mrope_section": [2, 2, 2], "mrope_interleaved": True, "rope_type": "default"},
    }  # fmt: skip
    rows: list[list[int | Picture]] = [
        [5, Picture(1, 2, 3), 6, 7],
        [8],
        [Picture(2, 1, 2), 9, 10, Picture(1, 3, 1), 11],
    ]
    return Spec(3, vision, text, False, rows, "left", 4)


def test_a_failure_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that a failing example prints runs it again: it fails with the fault, and passes without."""
    arguments = shlex.split(command("padding-is-unseen", _example()))[1:]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    _broken(monkeypatch, "padding visible")
    broken = CliRunner().invoke(main, arguments)
    assert broken.exit_code == 1
    assert "padding-is-unseen" in broken.output
