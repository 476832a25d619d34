"""A trace in one safetensors file, without a manifest: tensors named ``seam#call``. The least that an engine can write.

Everything else (axes, gates, kinds of rows) is the reference's. The file's own metadata may say more: ``case``,
``checkpoint_sha256``, ``dtype`` and ``producer``, and ``text.causal_mask``: "causal" if there is no mask as a tensor.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.core.errors import TraceError
from parity.core.trace import DTYPES, Description, Entry, SeamKey, Trace, dtype_name

SUFFIX = ".safetensors"
_NAME = re.compile(r"(?P<seam>[A-Za-z0-9_.]{1,200})#(?P<call>[0-9]{1,6})")
_MOST_TENSORS = 50_000  # the largest released model has 94 layers and 1,400 seams per step
_WORDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class BareTrace(Trace):
    """A safetensors file as a trace. ``case`` is used if the file does not name one.

    Raises TraceError for a file that cannot be read, or with a tensor whose name is not ``seam#call``. Tensors are read
    when needed, one at a time.
    """

    def __init__(self, path: Path, *, case: str = "") -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise TraceError(f"{path} is not a regular file (a pipe or a device may never end)")
        try:
            self._handle: Any = safe_open(path, framework="np").__enter__()  # type: ignore[no-untyped-call]
            names = self._handle.keys()
            metadata = self._handle.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise TraceError(f"{path} cannot be read as safetensors: {error}") from None
        if len(names) > _MOST_TENSORS:
            raise TraceError(f"{path} has {len(names):,} tensors, at most {_MOST_TENSORS:,} are read")
        self.causal = metadata.get("text.causal_mask") == "causal"
        self._names = {_key(path, name): name for name in sorted(names)}
        if len(self._names) < len(names):
            raise TraceError(f"{path} has two tensors of one seam and call, such as x#1 and x#01")
        self.description = Description(
            producer=metadata.get("producer", path.name),
            detail=metadata.get("detail", ""),
            dtype=metadata.get("dtype") or self._dtype(),
            case=metadata.get("case") or case,
            checkpoint=metadata.get("checkpoint_sha256"),
        )

    def entries(self) -> Mapping[SeamKey, Entry]:
        """Return every value by its key, in the order of the calls. Only key, shape and dtype are the file's own."""
        return self._entries

    @cached_property
    def _entries(self) -> dict[SeamKey, Entry]:
        found = {}
        for key in sorted(self._names, key=lambda key: (key.call, key.name)):
            held = self._handle.get_slice(self._names[key])
            shape, dtype = tuple(held.get_shape()), held.get_dtype().lower()
            found[key] = Entry(key=key, step="", group="", gate="float", shape=shape, dtype=dtype)
        return found

    def read(self, key: SeamKey) -> np.ndarray:
        if key not in self._names:
            raise TraceError(f"{self.path} has no value {key}")
        try:
            array: np.ndarray = self._handle.get_tensor(self._names[key])
        except (SafetensorError, AttributeError, TypeError) as error:  # numpy lacks some safetensors dtypes
            raise TraceError(f"{self.path} does not give {self._names[key]!r}: {error}") from None
        dtype_name(array)  # refuses dtypes that traces do not have
        return array

    def labels(self, key: SeamKey) -> np.ndarray:
        raise TraceError(f"{self.path} has no row labels")

    def _dtype(self) -> str:
        """Return the commonest float dtype of the tensors."""
        words = (self._handle.get_slice(name).get_dtype() for name in self._names.values())
        count = Counter(_WORDS[word] for word in words if word in _WORDS)
        if not count:
            raise TraceError(f"{self.path} has no tensor of a float dtype ({', '.join(_WORDS)})")
        word = count.most_common(1)[0][0]
        assert word in DTYPES
        return word


def _key(path: Path, name: str) -> SeamKey:
    match = _NAME.fullmatch(name)
    if match is None:
        raise TraceError(
            f"{path} has the tensor {name[:80]!r}; in a trace without a manifest, tensors are named seam#call, such as "
            "vision.merger#0"
        )
    return SeamKey(match["seam"], int(match["call"]))
