"""Every seam of a seeded checkpoint matters: setting it to zero changes the logits far more than noise does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from port import Inputs, listening

# float32 noise in these logits is 2e-6 (relative, worst token); a seam counts as live from 1000 times that.
LIVE = 2e-3


@pytest.mark.parametrize("name", ["photo", "batch-1", "odd-shape"])
def test_every_float_seam_zeroed_moves_the_logits(name: str, run_port: Any) -> None:
    folder, inputs, stage = run_port.prepared(name)
    model = run_port.loader.port(folder, "float32")
    batch = Inputs(**inputs.tensors)

    def logits(zeroed: str | None) -> torch.Tensor:
        def listen(seam: str, tensor: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(tensor) if seam == zeroed else tensor

        with torch.no_grad(), listening(listen):
            return model.prefill(batch, model.new_cache(*batch.input_ids.shape))

    correct = logits(None)
    seams = dict.fromkeys(
        entry.key.name for entry in stage.yardstick.trace if entry.gate == "float" and entry.key.name != "logits"
    )
    dead = {
        seam: moved for seam in seams if not (moved := float((logits(seam) - correct).norm() / correct.norm())) > LIVE
    }
    assert len(seams) > 50
    assert not dead, f"{name}: zeroing these moves the logits by less than {LIVE}: {dead}"


def test_a_dead_seam_would_be_noticed(run_port: Any) -> None:
    """The measure itself: zeroing what does not exist moves nothing."""
    folder, inputs, _ = run_port.prepared("photo")
    model = run_port.loader.port(folder, "float32")
    batch = Inputs(**inputs.tensors)
    with torch.no_grad():
        first = model.prefill(batch, model.new_cache(*batch.input_ids.shape))
        with listening(lambda _seam, tensor: tensor):
            second = model.prefill(batch, model.new_cache(*batch.input_ids.shape))
    assert float((first - second).norm() / first.norm()) <= LIVE
