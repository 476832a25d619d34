"""Nudged runs start from inputs and constants that are one ulp away, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reference.checkpoint import make_checkpoint
from reference.float64 import exact_frequencies
from reference.model import ReferenceModel
from reference.nudge import moved, nudged

ULP = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    return ReferenceModel.load(make_checkpoint(tmp_path_factory.mktemp("nudge") / "tiny", "tiny"))


@torch.no_grad()
def _vision(reference: ReferenceModel) -> Tensor:
    torch.manual_seed(0)
    grid = torch.tensor([[1, 6, 10]])
    visual: Any = reference.model.model.visual
    out = visual(torch.rand(60, 3 * 2 * 16 * 16), grid_thw=grid)
    found: Tensor = out[0] if isinstance(out, tuple) else out.last_hidden_state
    return found


def test_moved_numbers_are_their_neighbours() -> None:
    x = torch.tensor([1.0, -2.0, 0.3] * 50)
    found = moved(x, torch.Generator().manual_seed(0))
    above, below = (torch.nextafter(x, torch.full_like(x, end)) for end in (torch.inf, -torch.inf))
    assert ((found == above) | (found == below)).all()
    assert (found > x).any()
    assert (found < x).any()


def test_frequencies_move_away_from_their_exact_values_by_an_ulp(reference: ReferenceModel) -> None:
    loaded = [(module, module.inv_freq.clone(), exact) for module, exact in exact_frequencies(reference)]
    with nudged(reference, 1):
        for module, before, exact in loaded:
            inside = module.inv_freq
            assert inside[0] == before[0] == 1
            assert (inside[1:] != before[1:]).all()
            assert ((inside - before).abs() <= ULP * before).all()
            assert ((inside.double() - exact).abs() >= (before.double() - exact).abs()).all()
    assert all(torch.equal(module.inv_freq, before) for module, before, _ in loaded)


def test_interpolation_moves_by_rounding_only(reference: ReferenceModel) -> None:
    from reference.capture import capturing

    seen: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> None:
        seen[name] = tensor.clone()

    found = []
    for seed in (None, 1):
        with torch.no_grad():
            if seed is None:
                with capturing(reference, keep):
                    _vision(reference)
            else:
                with nudged(reference, seed), capturing(reference, keep):
                    _vision(reference)
        found.append(seen["vision.pos_embed"])
    off = (found[1] - found[0]).norm(dim=-1) / found[0].norm(dim=-1)
    assert off.max() > 0
    # Coordinates are below 8, where an ulp is 5e-7.
    assert off.max() < 2e-6


def test_the_result_changes_by_noise_and_nothing_stays(reference: ReferenceModel) -> None:
    before = _vision(reference)
    with nudged(reference, 1):
        one = _vision(reference)
    with nudged(reference, 2):
        two = _vision(reference)
    assert torch.equal(before, _vision(reference))
    assert not torch.equal(one, two)
    assert 0 < float((one - before).norm() / before.norm()) < 1e-5


def test_steps_by_bits_are_those_of_nextafter() -> None:
    numbers = torch.randn(60, 61) * torch.logspace(-44, 38, 61)
    largest = torch.finfo(torch.float32).max
    odd = (0.0, -0.0, torch.inf, -torch.inf, torch.nan, largest, -largest, 1e-45, -1e-45, 1.1754944e-38)
    for row, number in enumerate(odd):
        numbers[row] = number
    for tensor in (numbers, numbers.t(), numbers[:, ::3]):
        found = moved(tensor, torch.Generator().manual_seed(1))
        up = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        expected = torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf))
        assert torch.equal(found.contiguous().view(torch.int32), expected.contiguous().view(torch.int32))
