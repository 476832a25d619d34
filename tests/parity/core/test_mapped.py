"""Views of a mapped safetensors file."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from parity.core.errors import TraceError
from parity.core.folder import FolderTrace, SpoolTrace
from parity.core.mapped import MappedFile
from tests.parity.core.samples import values, write_folder

TYPES = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_)


def test_views_are_what_was_saved(tmp_path: Path) -> None:
    arrays = {str(dtype): np.arange(12).reshape(3, 4).astype(dtype) for dtype in TYPES}
    arrays["scalar"], arrays["empty"] = np.array(1.5), np.zeros((0, 3), np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    file = MappedFile(tmp_path / "x.safetensors")
    for name, array in arrays.items():
        found = file.tensor(name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        file.let_go()
        assert found.tobytes() == array.tobytes()


def test_bfloat16_is_read_with_its_own_dtype(tmp_path: Path) -> None:
    array = np.arange(7, dtype=np.float32).astype(ml_dtypes.bfloat16)
    save_file({"x": array}, tmp_path / "x.safetensors")
    found = MappedFile(tmp_path / "x.safetensors").tensor("x")
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


def test_whoever_writes_to_a_view_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones(5)}, path)
    before = path.read_bytes()
    MappedFile(path).tensor("x")[:] = 7
    assert path.read_bytes() == before


@pytest.mark.parametrize("held", [b"", b"x" * 4, b"\xff" * 20, (2**40).to_bytes(8, "little") + b"{}"])
def test_another_file_is_refused(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(held)
    with pytest.raises(TraceError, match="cannot be read"):
        MappedFile(tmp_path / "x")


def test_a_tensor_that_is_missing_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones(5)}, path)
    with pytest.raises(TraceError, match="does not give 'y'"):
        MappedFile(path).tensor("y")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TraceError, match="does not give 'x'"):
        MappedFile(path).tensor("x")


def test_a_spool_reads_as_a_folder_does(tmp_path: Path) -> None:
    write_folder(tmp_path / "spool", values(1))
    spool, folder = SpoolTrace(tmp_path / "spool"), FolderTrace(tmp_path / "spool")
    for item in folder:
        assert spool.read(item.key).tobytes() == folder.read(item.key).tobytes()
        if item.rows is not None:
            assert spool.labels(item.rows).tobytes() == folder.labels(item.rows).tobytes()
