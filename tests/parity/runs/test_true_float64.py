"""The yardstick is float64 everywhere: eager, sdpa and the port in float64 agree on every seam."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, SeamKey
from parity.engines.base import ModelEngine
from parity.engines.port import PortEngine
from parity.engines.reference import ReferenceEngine
from parity.runs.recorder import Recorder
from port import load_model
from reference.float64 import true_float64

# Two float64 runs in other orders of addition; `.double()` alone leaves 3e-7.
AGREEMENT = 1e-12
CASES = ["photo", pytest.param("batch-8", marks=pytest.mark.slow), "odd-shape", "batch-3-tied", "text"]


def worst_row(engine: ModelEngine, run_port: Any, name: str) -> tuple[float, str]:
    """The largest relative row error of an engine against the yardstick, over all float seams."""
    _, inputs, stage = run_port.prepared(name)
    trace = stage.yardstick.trace
    worst = (0.0, "")

    def judge(key: SeamKey, array: Any) -> None:
        nonlocal worst
        entry = trace.entries()[key]
        if entry.gate == "exact":
            return
        reference = as_rows(trace.read(key), entry.token_axes)
        kinds = trace.labels(entry.rows).reshape(-1)
        errors = row_errors(as_rows(array, entry.token_axes), reference)[kinds != PADDING]
        worst = max(worst, (float(errors.max()), str(key)))

    sink = Recorder(inputs.expected, judge)
    engine.trace(inputs.tensors, stage.tokens, steps=inputs.decode_steps, sink=sink)
    return worst


@pytest.mark.parametrize("name", CASES)
def test_eager_and_sdpa_agree_in_true_float64(name: str, run_port: Any) -> None:
    folder, _, _ = run_port.prepared(name)
    engine = ReferenceEngine(run_port.loader.reference(folder, "float32"), "sdpa", exact=True)
    error, seam = worst_row(engine, run_port, name)
    assert 0 < error < AGREEMENT, seam


@pytest.mark.parametrize("name", CASES)
def test_the_port_in_float64_is_the_yardstick(name: str, run_port: Any) -> None:
    folder, _, _ = run_port.prepared(name)
    error, seam = worst_row(PortEngine(load_model(folder, dtype=torch.float64)), run_port, name)
    assert 0 < error < AGREEMENT, seam


def test_double_alone_is_not_float64(run_port: Any) -> None:
    """The check can fail: with ``.double()`` alone, parts of the reference still compute in float32."""
    from reference.model import ReferenceModel

    folder, _, _ = run_port.prepared("photo")
    islands = ReferenceModel.load(folder, dtype=torch.float64)
    error, _ = worst_row(ReferenceEngine(islands, "sdpa"), run_port, "photo")
    assert error > 1e-8


def test_the_scope_leaves_nothing_behind(run_port: Any) -> None:
    import sys

    folder, _, _ = run_port.prepared("photo")
    reference = run_port.loader.reference(folder, "float32")
    module = sys.modules[type(reference.model).__module__]
    tensor_float = torch.Tensor.float
    before = dict(reference.model.named_parameters())

    def fail_inside() -> None:
        with true_float64(reference):
            assert torch.get_default_dtype() == torch.float64
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert module.torch is torch
    assert torch.Tensor.float is tensor_float
    assert torch.get_default_dtype() == torch.float32
    after = dict(reference.model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert reference.model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
