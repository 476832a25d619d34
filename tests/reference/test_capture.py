"""The capture gets every seam and leaves the reference unchanged. Its prefill and decode steps match ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reference.capture import capturing, send_state
from reference.checkpoint import make_checkpoint
from reference.errors import ReferenceModelError
from reference.media import VideoFrames
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("capture") / "tiny", "tiny")


@pytest.fixture(scope="module")
def reference(folder: Path) -> ReferenceModel:
    return ReferenceModel.load(folder)


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, torch.Tensor]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (96, 160, 3), dtype=np.uint8))
    clip = VideoFrames(rng.integers(0, 255, (4, 64, 96, 3), dtype=np.uint8), fps=2.0)
    processor = ReferenceProcessor.load(folder)
    return processor.prepare([["Look ", picture], ["no picture"], [clip, "moves?"]], padding_side="left")


def drive(reference: ReferenceModel, inputs: dict[str, torch.Tensor], steps: int) -> torch.Tensor:
    logits, state = reference.prefill(inputs)
    tokens = [logits[:, -1].argmax(dim=-1, keepdim=True)]
    for _ in range(steps - 1):
        tokens.append(reference.decode(tokens[-1], state)[:, -1].argmax(dim=-1, keepdim=True))
    return torch.cat(tokens, dim=1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_stepwise_drive_gives_the_tokens_of_generate(
    reference: ReferenceModel, inputs: dict[str, torch.Tensor], attention: Any
) -> None:
    reference.use_attention(attention)
    # transformers 5 takes pictures for text, silently, where these are not given; 4.57 does not know them.
    knows_types = int(reference.version.split(".")[0]) >= 5
    extra = {"mm_token_type_ids": reference.token_types(inputs["input_ids"])} if knows_types else {}
    generated = reference.model.generate(**inputs, **extra, max_new_tokens=8, do_sample=False, eos_token_id=None)[
        :, inputs["input_ids"].shape[1] :
    ]
    assert torch.equal(generated, drive(reference, inputs, 8))


def test_a_text_request_after_a_picture_request_is_not_disturbed(
    reference: ReferenceModel, folder: Path, inputs: dict[str, torch.Tensor]
) -> None:
    text = ReferenceProcessor.load(folder).prepare([["only words"]], padding_side="left")
    alone = drive(ReferenceModel.load(folder), text, 4)
    drive(reference, inputs, 2)
    reference.use_attention("eager")
    assert torch.equal(drive(reference, text, 4), alone)


def test_capture_leaves_the_reference_as_it_was(reference: ReferenceModel, inputs: dict[str, torch.Tensor]) -> None:
    import sys

    module = sys.modules[type(reference.model).__module__]
    before = {name: getattr(module, name) for name in ("apply_rotary_pos_emb", "apply_rotary_pos_emb_vision")}
    plain, _ = reference.prefill(inputs)
    with capturing(reference, lambda _name, _tensor: None):
        watched, _ = reference.prefill(inputs)
        assert module.apply_rotary_pos_emb is not before["apply_rotary_pos_emb"]
    assert torch.equal(plain, watched)
    assert {name: getattr(module, name) for name in before} == before
    hooks = [m for m in reference.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_capture_is_taken_away_after_an_error(reference: ReferenceModel, inputs: dict[str, torch.Tensor]) -> None:
    def refuse(_name: str, _tensor: torch.Tensor) -> None:
        raise RuntimeError("sink is full")

    with pytest.raises(RuntimeError, match="sink is full"), capturing(reference, refuse):
        reference.prefill(inputs)
    assert [m for m in reference.model.modules() if m._forward_hooks or m._forward_pre_hooks] == []


def test_deepstack_is_read_after_the_add(reference: ReferenceModel, inputs: dict[str, torch.Tensor]) -> None:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, tensor: torch.Tensor) -> None:
        seen.setdefault(name, tensor.clone())

    with capturing(reference, keep):
        _, state = reference.prefill(inputs)
    visual = (inputs["input_ids"] == reference.config.image_token_id) | (
        inputs["input_ids"] == reference.config.video_token_id
    )
    moved = (seen["text.layers.0.deepstack"] - seen["text.layers.0.out"]).norm(dim=-1) > 0
    assert torch.equal(moved, visual)
    sent: dict[str, torch.Tensor] = {}
    send_state(state, sent.__setitem__, prefill=True)
    assert sent["rope_delta"].shape == (3, 1)
    assert sent["rope_delta"][1] == 0
    assert (sent["rope_delta"][[0, 2]] < 0).all()


def test_what_a_sink_returns_is_what_the_reference_goes_on_with(
    reference: ReferenceModel, inputs: dict[str, torch.Tensor]
) -> None:
    sound, _ = reference.prefill(inputs)

    def zero_a_layer(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        return torch.zeros_like(tensor) if name == "text.layers.2.mlp.out" else None

    with capturing(reference, zero_a_layer):
        changed, _ = reference.prefill(inputs)
    assert float((changed - sound).norm() / sound.norm()) > 1e-2


def test_a_checkpoint_with_a_hole_is_no_yardstick(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.language_model.layers.1.self_attn.q_norm.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReferenceModelError, match=r"layers\.1\.self_attn\.q_norm\.weight"):
        ReferenceModel.load(broken)


def test_legacy_keys_load_the_same_weights(folder: Path, reference: ReferenceModel, tmp_path: Path) -> None:
    legacy = ReferenceModel.load(make_checkpoint(tmp_path / "legacy", "tiny", layout="legacy"))
    for (name, ours), theirs in zip(
        legacy.model.state_dict().items(), reference.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
