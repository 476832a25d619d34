"""The yardstick is float64 throughout: eager and sdpa agree on every seam, and so does the port in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from parity.core.metrics import as_rows, row_errors
from parity.core.trace import PADDING, SeamKey
from parity.qwen3vl.engines import Engine, PortEngine, ReferenceEngine
from parity.qwen3vl.recorder import Recorder
from port import load_model
from reference.float64 import true_float64

# Two float64 runs in other orders of addition; `.double()` alone leaves 3e-7.
AGREEMENT = 1e-12
CASES = ["photo", "batch-8", "odd-shape", "batch-3-tied", "text"]


def worst_row(engine: Engine, run_port: Any, name: str) -> tuple[float, str]:
    """The largest relative row error of an engine against the yardstick, over all float seams."""
    _, _, inputs, yardstick = run_port.yardstick(name)
    worst = (0.0, "")

    def judge(key: SeamKey, array: Any) -> None:
        nonlocal worst
        entry = yardstick.trace.entries()[key]
        if entry.gate == "exact":
            return
        reference = as_rows(yardstick.trace.read(key), entry.token_axes)
        kinds = yardstick.trace.labels(entry.rows).reshape(-1)
        errors = row_errors(as_rows(array, entry.token_axes), reference)[kinds != PADDING]
        worst = max(worst, (float(errors.max()), str(key)))

    sink = Recorder(inputs.expected, judge)
    engine.trace(inputs.tensors, yardstick.tokens, steps=inputs.decode_steps, sink=sink)
    return worst


@pytest.mark.parametrize("name", CASES)
def test_eager_and_sdpa_agree_in_true_float64(name: str, run_port: Any) -> None:
    _, folder, _, _ = run_port.yardstick(name)
    engine = ReferenceEngine(run_port.bench.reference(folder, "float32"), "sdpa", exact=True)
    error, seam = worst_row(engine, run_port, name)
    assert 0 < error < AGREEMENT, seam


@pytest.mark.parametrize("name", CASES)
def test_the_port_in_float64_is_the_yardstick(name: str, run_port: Any) -> None:
    _, folder, _, _ = run_port.yardstick(name)
    error, seam = worst_row(PortEngine(load_model(folder, dtype=torch.float64)), run_port, name)
    assert 0 < error < AGREEMENT, seam


def test_double_alone_is_not_float64(run_port: Any) -> None:
    """The measure can fail: the reference at ``.double()`` keeps its float32 islands."""
    from reference.model import ReferenceModel

    _, folder, _, _ = run_port.yardstick("photo")
    islands = ReferenceModel.load(folder, dtype=torch.float64)
    error, _ = worst_row(ReferenceEngine(islands, "sdpa"), run_port, "photo")
    assert error > 1e-8


def test_the_scope_leaves_nothing_behind(run_port: Any) -> None:
    import sys

    _, folder, _, _ = run_port.yardstick("photo")
    reference = run_port.bench.reference(folder, "float32")
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
