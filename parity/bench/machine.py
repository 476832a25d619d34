"""The class of a machine: within one, ratios and counts can be compared."""

from __future__ import annotations

import platform

import torch

from parity.engines.device import device_name
from parity.engines.dtypes import running_dtype
from port import Qwen3VL
from port.kernels import FastKernels, kernels_of


def instruction_set() -> str:
    """What torch uses of the processor, such as AVX2."""
    return str(torch.backends.cpu.get_cpu_capability())


def machine_class(model: Qwen3VL, *, threads: int, clock: str) -> str:
    """Everything that ratios depend on, in words: processor family, instructions, threads, kernels, dtype, torch.

    Of a device that is not the CPU, its name stands for the first three.
    """
    kernels = kernels_of(model)
    compiled = isinstance(kernels, FastKernels) and kernels.native is not None
    processor = [
        platform.machine(),
        instruction_set(),
        f"{threads} thread{'s' if threads > 1 else ''}",
    ]
    parts = [
        *(processor if model.device.type == "cpu" else [device_name(model.device)]),
        f"{kernels.name} kernels{', compiled' if compiled else ''}",
        running_dtype(model),
        f"{clock} clock",
        f"torch {'.'.join(torch.__version__.split('.')[:2])}",
    ]
    return "; ".join(parts)
