"""Writes safetensors files as a stream, so that only one block of values is in memory at a time.

A safetensors file has 8 bytes with the length of the header (little endian), a JSON header, and the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from reference.tokenizer import json_bytes

DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype(np.float32)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float16": ("F16", np.dtype(np.float16)),
}
"""The safetensors code and the numpy dtype of each dtype name in config.json."""

INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its stored name, its shape, and its values as flat float32 blocks in order."""

    name: str
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]


def plan_shards(sizes: Mapping[str, int], *, max_bytes: int) -> dict[str, list[str]]:
    """Fill files in order, each with up to `max_bytes`. A larger tensor gets its own file.

    Args:
        sizes: bytes of each tensor by name, in the order in which they are written.
        max_bytes: largest number of tensor bytes in a file.

    Returns:
        Tensor names by file name: `model.safetensors`, or `model-00001-of-0000N.safetensors` and so on.

    Raises:
        ValueError: `max_bytes` is not positive.
    """
    if max_bytes <= 0:
        raise ValueError(f"a file must hold at least 1 byte of tensors, got max_bytes {max_bytes}")
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{index:05}-of-{len(groups):05}.safetensors": group for index, group in enumerate(groups, 1)}


def index_bytes(weight_map: Mapping[str, str], *, total_bytes: int) -> bytes:
    """Return `model.safetensors.index.json`: the file of each stored tensor, and the bytes of all tensors."""
    return json_bytes({"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))})


def write_shard(path: Path, entries: Iterable[Entry], *, dtype: str) -> dict[str, Any]:
    """Write one file, block by block.

    Args:
        path: the file to write.
        entries: its tensors, in order.
        dtype: a key of `DTYPES`. Values are rounded to nearest even.

    Returns:
        `bytes` and `sha256` of the file.

    Raises:
        ValueError: the number of values in the blocks of a tensor does not match its shape.
    """
    entries = list(entries)
    code, numpy_dtype = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + math.prod(entry.shape) * numpy_dtype.itemsize
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # tensors start on an 8-byte boundary
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            digest.update(piece)
        for entry in entries:
            count = 0
            for block in entry.blocks:
                piece = block.astype(numpy_dtype.newbyteorder("<"), copy=False).tobytes()
                file.write(piece)
                digest.update(piece)
                count += block.size
            if count != math.prod(entry.shape):
                raise ValueError(
                    f"tensor {entry.name} has shape {list(entry.shape)} = {math.prod(entry.shape)} values, "
                    f"its blocks hold {count}"
                )
    return {"bytes": 8 + len(text) + offset, "sha256": digest.hexdigest()}
