"""The kernels of other libraries, by the word that names them on the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from parity.core.errors import ParityError

if TYPE_CHECKING:
    from parity.kernels.base import Kernels

_KERNELS = {
    "numpy": ("parity.kernels.numpy_kernels", "NumpyKernels"),
    "split": ("parity.kernels.numpy_kernels", "SplitKernels"),
    "jax": ("parity.kernels.jax_kernels", "JaxKernels"),
    "onnx": ("parity.kernels.onnx_kernels", "OnnxKernels"),
    "loops": ("parity.kernels.loops", "LoopKernels"),
    "fused-loops": ("parity.kernels.loops", "FusedLoopKernels"),
    "one-pass": ("parity.kernels.loops", "OnePassKernels"),
}
KERNELS = tuple(_KERNELS)


def make_kernels(name: str) -> Kernels:
    """Return the kernels of a name in ``KERNELS``. Raises ParityError if their library is not installed."""
    module, attribute = _KERNELS[name]
    try:
        kind: type[Kernels] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ParityError(
            f"the kernels {name} need {error.name}; install them with pip install 'qwen3vl-parity[calibration]'"
        ) from None
    return kind()
