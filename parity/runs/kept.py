"""Keeps measured yardsticks between runs: the reference's trace, its greedy tokens and the floors of both comparisons.

A kept yardstick is used only for the same case, checkpoint, code, versions and machine settings, and only if no byte
of it was changed. With it, a run needs the subject's passes alone.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from parity.core.errors import ParityError, TraceError
from parity.core.floors import Floors
from parity.core.folder import SpoolTrace
from parity.core.trace import Trace
from parity.engines.base import TensorMap
from parity.engines.device import describe_device
from parity.runs.inputs import CaseInputs
from parity.runs.recorder import to_numpy
from parity.runs.sealed import ENTRY, Broken, SecretError, make_room, open_sealed, put, remove, seal_folder
from parity.runs.yardstick import Yardstick
from reference.model import ReferenceModel

MOST_BYTES = 20 * 2**30
_TRACE, _TOKENS = "reference", "tokens.safetensors"
_FLOORS = {"accumulated": "floors.safetensors", "isolated": "isolated.safetensors"}
# What changes the last bits of a sum, or which kernels are used.
_VARIABLES = (
    "OMP",
    "MKL",
    "GOMP",
    "KMP",
    "ATEN",
    "ONEDNN",
    "DNNL",
    "OPENBLAS",
    "TORCH",
    "PYTORCH",
    "GLIBC",
    "NPY",
    "CUDA",
)
_PACKAGES = ("torch", "transformers", "numpy", "ml_dtypes", "safetensors", "torchvision")


@dataclass(frozen=True)
class KeptYardsticks:
    """Yardsticks in ``folder``. ``code`` is a digest of the code that measures them."""

    folder: Path
    code: str
    most_bytes: int = MOST_BYTES

    def find(self, key: str) -> tuple[Yardstick, Tensor] | None:
        """Return a kept yardstick and its tokens (B, steps), or None. One that was changed is removed.

        Raises SecretError if the user's secret cannot be used.
        """
        place = self.folder / key
        if not place.exists():
            return None
        spool = tempfile.TemporaryDirectory(prefix="parity-yardstick-")
        try:
            content = open_sealed(place, key, Path(spool.name))
            found = _read(Path(spool.name), content, spool)
        except SecretError:
            spool.cleanup()
            raise
        except (Broken, TraceError, OSError, SafetensorError, KeyError, TypeError, ValueError):
            spool.cleanup()
            remove(place)
            return None
        os.utime(place / ENTRY)
        return found

    def keep(self, key: str, yardstick: Yardstick, tokens: Tensor) -> None:
        """Keep a yardstick that was just measured; the ones not used for longest make room for it.

        Raises ParityError if the folder cannot be written.
        """
        trace = yardstick.trace
        assert isinstance(trace, SpoolTrace)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                shutil.copytree(trace.folder, work / _TRACE)
                described = _write_floors(work, yardstick)
                save_file({"tokens": to_numpy(tokens)}, work / _TOKENS)
                seal_folder(work, key, {"runs": list(yardstick.runs), "floors": described})
                put(work, self.folder / key)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            make_room(self.folder, self.most_bytes, spare=self.folder / key)
        except OSError as error:
            raise ParityError(f"{self.folder} cannot keep the yardstick: {error}; name another folder") from None


def yardstick_key(kept: KeptYardsticks, model: ReferenceModel, inputs: CaseInputs, *, variants: Sequence[str]) -> str:
    """Return the sha256 of everything that a yardstick depends on. Raises ParityError if a checkpoint has no digest."""
    if inputs.checkpoint is None:
        raise ParityError(
            f"the case {inputs.name} does not know its checkpoint's sha256, so nothing can be kept for it"
        )
    parts: dict[str, Any] = {
        "code": kept.code,
        "modelling": _file_digest(Path(inspect.getfile(type(model.model)))),
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "case": inputs.name,
        "checkpoint": inputs.checkpoint,
        "files": {path.name: _file_digest(path) for path in sorted(Path(model.model.name_or_path).glob("*.json"))},
        "inputs": _inputs_digest(inputs.tensors),
        "steps": inputs.decode_steps,
        "variants": list(variants),
        "dtype": str(model.model.dtype),
        "device": [str(model.device), describe_device(model.device)],
        "machine": _machine(),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__config__.show(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "settings": [
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(),
            str(torch.get_default_dtype()),
        ],
        "variables": {name: value for name, value in os.environ.items() if name.split("_")[0] in _VARIABLES},
    }


def _inputs_digest(inputs: TensorMap) -> str:
    whole = hashlib.sha256()
    for name in sorted(inputs):
        array = to_numpy(inputs[name], copy=False)
        whole.update(f"{name}\0{array.dtype}\0{list(array.shape)}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_floors(work: Path, yardstick: Yardstick) -> dict[str, dict[str, Any]]:
    """Write the floors of both comparisons, and return the runs' dtypes and distances."""
    described = {}
    for name, floors in (("accumulated", yardstick.floors), ("isolated", yardstick.isolated_floors)):
        assert floors is not None
        tensors, described[name] = floors.exact()
        save_file(tensors, work / _FLOORS[name])
    return described


def _read(
    folder: Path, content: Mapping[str, Any], spool: tempfile.TemporaryDirectory[str]
) -> tuple[Yardstick, Tensor]:
    trace = SpoolTrace(folder / _TRACE)
    floors = {name: _floors(trace, folder / file, content["floors"][name]) for name, file in _FLOORS.items()}
    with safe_open(folder / _TOKENS, framework="pt") as file:
        tokens: Tensor = file.get_tensor("tokens")
    yardstick = Yardstick(
        trace=trace,
        floors=floors["accumulated"],
        isolated_floors=floors["isolated"],
        runs=list(content["runs"]),
        spool=spool,
    )
    return yardstick, tokens


def _floors(trace: Trace, path: Path, described: Mapping[str, Any]) -> Floors:
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    return Floors.of_exact(trace, tensors, described)
