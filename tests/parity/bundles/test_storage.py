"""What a bundle stores is what is read: packed rows, predicted seams, floors."""

from __future__ import annotations

import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from parity.bundles.inputs import Inputs
from parity.bundles.packing import compared_rows, pack, unpack
from parity.bundles.tokens.prediction import Known, cut, predicted
from parity.bundles.trace import BundleTrace, write_trace
from parity.core.errors import TraceError
from parity.core.floors import Floors
from parity.core.trace import DTYPES, PADDING, Description, Entry, MemoryTrace, SeamKey

ROWS = SeamKey("rows.tokens", 0)
RNG = np.random.default_rng(0)


def _entry(array: np.ndarray, name: str = "x", call: int = 0, **fields: Any) -> Entry:
    own: dict[str, Any] = {"step": "prefill", "group": "text", "gate": "float", "token_axes": (0, 1), **fields}
    return Entry(key=SeamKey(name, call), shape=array.shape, dtype=str(array.dtype), **own)


def _trace(arrays: dict[SeamKey, np.ndarray], kinds: np.ndarray | None = None, **fields: Any) -> MemoryTrace:
    trace = MemoryTrace(Description("transformers", "", "float64", "case", None, {0: "text"}))
    for key, array in arrays.items():
        own = {**fields, "token_axes": (0, 2)} if key.name.endswith("cache") else fields
        trace.add(_entry(array, key.name, key.call, rows=None if kinds is None else ROWS, **own), array)
    if kinds is not None:
        trace.add_labels(ROWS, kinds)
    return trace


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    dtype=st.sampled_from(["float64", "float32", "int64", "int32", "uint8", "bool"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_compared_rows_survive_and_padding_is_zero(shape: list[int], dtype: str, seed: int, data: Any) -> None:
    array = np.random.default_rng(seed).integers(0, 200, shape).astype(DTYPES[dtype])
    axes = tuple(data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(0, len(shape)))])
    rows = math.prod(shape[axis] for axis in axes)
    used = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), dtype=bool)
    entry = _entry(array, token_axes=axes)
    found = unpack(pack(compared_rows(array, axes, used)), entry, used)
    assert found.dtype == array.dtype
    front = range(len(axes))
    mine, own = (np.moveaxis(side, axes, front).reshape(rows, -1) for side in (found, array))
    assert np.array_equal(mine[used], own[used])
    assert not mine[~used].any()


@pytest.mark.parametrize("by", [-1, 1, 10**9])
def test_bytes_of_another_size_are_refused(by: int) -> None:
    """A file that unpacks to more than the seam's size is not unpacked further."""
    array = np.zeros((2, 3, 4), np.float32)
    entry, used = _entry(array), np.ones(6, bool)
    wrong = np.frombuffer(zlib.compress(bytes(array.nbytes + by)), np.uint8) if by < 10**9 else _bomb()
    with pytest.raises(TraceError, match="does not unpack to the 96 bytes"):
        unpack(wrong, entry, used)
    with pytest.raises(TraceError, match="cannot be unpacked"):
        unpack(np.zeros(9, np.uint8), entry, used)
    with pytest.raises(TraceError, match="expected packed bytes"):
        unpack(array, entry, used)


def _bomb() -> np.ndarray:
    packer = zlib.compressobj()
    parts = [packer.compress(bytes(10**7)) for _ in range(20)]
    return np.frombuffer(b"".join([*parts, packer.flush()]), np.uint8)


def _attention(steps: int = 3) -> dict[SeamKey, np.ndarray]:
    """Queries, keys and caches of one layer: (B, S, H, D), with rotations (B, S, D)."""
    arrays: dict[SeamKey, np.ndarray] = {}
    keys = []
    for call in range(steps):
        tokens = 5 if call == 0 else 1
        angles = RNG.normal(size=(2, tokens, 4))
        cos, sin = (np.concatenate([part, part], axis=-1) for part in (np.cos(angles), np.sin(angles)))
        norm = RNG.normal(size=(2, tokens, 3, 8))
        half = np.concatenate([-norm[..., 4:], norm[..., :4]], axis=-1)
        keys.append(norm * cos[:, :, None] + half * sin[:, :, None])
        arrays[SeamKey("text.rope_cos", call)], arrays[SeamKey("text.rope_sin", call)] = cos, sin
        arrays[SeamKey("text.layers.0.attn.k_norm", call)] = norm
        arrays[SeamKey("text.layers.0.attn.k_rope", call)] = keys[-1]
        cache = np.ascontiguousarray(np.moveaxis(np.concatenate(keys, axis=1), 1, 2))
        arrays[SeamKey("text.layers.0.attn.k_cache", call)] = cache
    return arrays


def test_a_written_trace_is_read_bit_for_bit(tmp_path: Path) -> None:
    trace = _trace(_attention())
    write_trace(trace, tmp_path / "trace", checkpoint="0" * 64)
    found = BundleTrace(tmp_path / "trace")
    assert found.description.checkpoint == "0" * 64
    assert list(found.entries()) == list(trace.entries())
    for entry in trace:
        assert np.array_equal(found.read(entry.key), trace.read(entry.key).astype(np.float32)), entry.key


def test_wrong_predictions_cost_space_and_nothing_else(tmp_path: Path) -> None:
    """A reference that rotates in another way, or whose cache holds something else, is stored as it is."""
    sizes = []
    for name, change in (("right", 1.0), ("wrong", -3.0)):
        arrays = _attention()
        for key, array in arrays.items():
            if key.name.endswith(("k_rope", "k_cache")):
                arrays[key] = RNG.normal(size=array.shape) if change < 0 else array
        trace = _trace(arrays)
        write_trace(trace, tmp_path / name, checkpoint=None)
        found = BundleTrace(tmp_path / name)
        for entry in trace:
            assert np.array_equal(found.read(entry.key), trace.read(entry.key).astype(np.float32))
        sizes.append(sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors")))
    assert sizes[0] < 0.7 * sizes[1]


def test_a_predicted_value_is_checked_when_it_is_read(tmp_path: Path) -> None:
    write_trace(_trace(_attention()), tmp_path / "trace", checkpoint=None)
    path = tmp_path / "trace" / "seams-00000.safetensors"
    held = load_file(path)
    held["text.layers.0.attn.k_norm[1]"] = held["text.layers.0.attn.k_norm[2]"]
    save_file(held, path)
    found = BundleTrace(tmp_path / "trace")
    found.read(SeamKey("text.layers.0.attn.k_rope", 0))
    for seam in ("k_rope", "k_cache"):
        with pytest.raises(TraceError, match=r"k_(rope|cache)\[1\] have the checksum"):
            found.read(SeamKey(f"text.layers.0.attn.{seam}", 1))


def test_padding_is_not_stored(tmp_path: Path) -> None:
    kinds = np.array([[PADDING, PADDING, 0], [0, 0, 0]], np.uint8)
    array = RNG.normal(size=(2, 3, 500))
    array[0, :2] = np.nan
    write_trace(_trace({SeamKey("x", 0): array}, kinds), tmp_path / "trace", checkpoint=None)
    found = BundleTrace(tmp_path / "trace").read(SeamKey("x", 0))
    assert not found[0, :2].any()
    assert np.array_equal(found[kinds == 0], array[kinds == 0].astype(np.float32))
    assert (tmp_path / "trace" / "seams-00000.safetensors").stat().st_size < 4.3 * 4 * 500


@pytest.mark.parametrize(("frames", "depth", "merge"), [(1, 2, 2), (5, 2, 2), (4, 4, 3), (3, 1, 1)])
def test_patches_are_cut_as_the_processor_does(frames: int, depth: int, merge: int) -> None:
    side, high, wide = 4, 2 * merge, 3 * merge
    pixels = RNG.integers(0, 256, (frames, high * side, wide * side, 3), dtype=np.uint8)
    time = -(-frames // depth)
    found = cut(pixels, (time, high, wide), (time * high * wide, 3 * depth * side**2), merge)
    assert found is not None
    row = 0
    for t in range(time):
        for y, x in ((y, x) for y in range(high // merge) for x in range(wide // merge)):
            for down, right in ((down, right) for down in range(merge) for right in range(merge)):
                top, left = (y * merge + down) * side, (x * merge + right) * side
                shown = [pixels[min(t * depth + at, frames - 1)] for at in range(depth)]
                patch = np.stack([frame[top : top + side, left : left + side] for frame in shown])  # (T, P, P, C)
                assert np.allclose(found[row], np.moveaxis(patch, 3, 0).reshape(-1) / 127.5 - 1, atol=1e-6)
                row += 1
    assert cut(pixels, (time, high, wide), (time * high * wide, 3 * depth * side**2 + 1), merge) is None
    assert cut(pixels, (0, 0, 0), (0, 0), merge) is None


def test_pixels_are_predicted_from_the_inputs(tmp_path: Path) -> None:
    pixels = RNG.normal(size=(6, 12)).astype(np.float32)
    save_file({"pixel_values": pixels, "image_grid_thw": np.array([[1, 1, 2], [1, 2, 2]])}, tmp_path / "inputs")
    known = Known(Inputs(tmp_path / "inputs"))
    second = pixels[2:]
    trace = _trace({SeamKey("processor.images.1.patches", 0): second}, gate="steps")
    (entry,) = trace
    found = predicted(trace, entry, known)
    assert found is not None
    assert np.array_equal(found, second)
    assert predicted(trace, entry, Known()) is None
    with pytest.raises(TraceError, match="has 2 images, not number 2"):
        Inputs(tmp_path / "inputs").patches("images", 2)


def _floors(trace: MemoryTrace, *runs: dict[SeamKey, np.ndarray]) -> Floors:
    floors = Floors(trace)
    for run in runs:
        for key, array in run.items():
            floors.observe(trace.entries()[key], array)
    return floors


def test_floors_are_saved_rounded_up(tmp_path: Path) -> None:
    kinds = np.array([[PADDING, 0, 0], [0, 0, 0]], np.uint8)
    base = {SeamKey("x", 0): RNG.normal(size=(2, 3, 7)), SeamKey("y", 1): RNG.normal(size=(2, 3, 5))}
    trace = _trace(base, kinds)
    run = {key: (array * (1 + 1e-6 * RNG.normal(size=array.shape))).astype(np.float32) for key, array in base.items()}
    run[SeamKey("x", 0)][0, 0] = np.nan  # at padding
    floors = _floors(trace, run)
    floors.save(tmp_path / "floors")
    found = Floors.load(tmp_path / "floors", trace)
    for entry in trace:
        exact, saved = floors.spread(entry)[1:], found.spread(entry)[1:]
        assert (saved >= exact).all()
        assert np.allclose(saved, exact, rtol=2e-7, atol=0)
        assert found.dtype(entry) == "float32"
        assert np.allclose(found.rows(entry, kinds.reshape(-1) == 0), floors.rows(entry, kinds.reshape(-1) == 0))


def test_the_distance_of_each_run_is_saved(tmp_path: Path) -> None:
    base = {SeamKey("x", 0): np.ones((1, 2, 1))}
    trace = _trace(base)
    floors = Floors(trace)
    for share in (1e-6, 3e-6, 0.0):
        floors.observe(next(iter(trace)), base[SeamKey("x", 0)] * (1 + share * np.array([1.0, 0.5]).reshape(1, 2, 1)))
    entry = next(iter(trace))
    assert floors.runs(entry) == pytest.approx((1e-6, 3e-6, 0.0), rel=1e-6)
    floors.save(tmp_path / "floors")
    assert Floors.load(tmp_path / "floors", trace).runs(entry) == floors.runs(entry)
    assert Floors.of_exact(trace, *floors.exact()).runs(entry) == floors.runs(entry)
    for kept in (floors, Floors.load(tmp_path / "floors", trace)):
        kept.check_runs()
    held = load_file(tmp_path / "floors")
    save_file(held, tmp_path / "older", metadata={"x[0]": "float64"})
    assert Floors.load(tmp_path / "older", trace).runs(entry) == ()


@pytest.mark.parametrize(
    "runs", ['{"x[0]": [1e-6]}', '{"x[0]": [NaN]}', '{"x[0]": []}', '{"y[0]": [3e-6]}', '{"x[0]": 3}', "{", "[" * 9999]
)
def test_distances_of_runs_that_do_not_fit_the_floors_are_refused(runs: str, tmp_path: Path) -> None:
    base = {SeamKey("x", 0): np.ones((1, 2, 1))}
    trace = _trace(base)
    _floors(trace, {key: array * (1 + 3e-6) for key, array in base.items()}).save(tmp_path / "floors")
    save_file(load_file(tmp_path / "floors"), tmp_path / "wrong", metadata={"x[0]": "float64", "runs": runs})
    with pytest.raises(TraceError):
        Floors.load(tmp_path / "wrong", trace).check_runs()


def test_floors_that_judge_nothing_are_not_saved(tmp_path: Path) -> None:
    base = {SeamKey("x", 0): RNG.normal(size=(2, 3, 7))}
    broken = {SeamKey("x", 0): np.full((2, 3, 7), np.nan)}
    with pytest.raises(TraceError, match="NaN or Inf"):
        _floors(_trace(base), broken).save(tmp_path / "floors")
    assert not (tmp_path / "floors").exists()


def test_floors_must_fit_the_trace(tmp_path: Path) -> None:
    base = {SeamKey("x", 0): RNG.normal(size=(2, 3, 7))}
    _floors(_trace(base), base).save(tmp_path / "floors")
    other = _trace({SeamKey("y", 0): base[SeamKey("x", 0)]})
    with pytest.raises(TraceError, match=r"lacks the floors of \['y\[0\]'\]"):
        Floors.load(tmp_path / "floors", other)
    with pytest.raises(TraceError, match=r"expected F32 \[1, 4\]"):
        Floors.load(tmp_path / "floors", _trace({SeamKey("x", 0): RNG.normal(size=(2, 2, 7))}))
    for dtype in ("int8", "nonsense"):
        held = load_file(tmp_path / "floors")
        save_file(held, tmp_path / "wrong", metadata={"x[0]": dtype})
        with pytest.raises(TraceError, match=f"the dtype '{dtype}'"):
            Floors.load(tmp_path / "wrong", _trace(base))
    shutil.copyfile(tmp_path / "floors", tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "floors").read_bytes()[:20])
    with pytest.raises(TraceError, match="cut cannot be read"):
        Floors.load(tmp_path / "cut", _trace(base))
