"""The device on which port and reference run: chosen, described, and waited for. Needs no transformers.

float32 is float32: TF32, in which a GPU rounds the factors of products to 10 bits, is off unless the dtype is tf32. It
is a dtype of its own, with its own floors. Numbers are drawn on the CPU, so a seed gives the same ones on every device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from parity.core.errors import ParityError
from reference.devices import has_float64

CPU = torch.device("cpu")
TF32 = "tf32"
_FIRST_WITH_TF32 = (8, 0)  # compute capability
_DRIVER = Path("/proc/driver/nvidia/version")


def use_device(word: str, dtype: str = "float32") -> torch.device:
    """Return the device of a word such as ``cuda:1``, after setting for the whole process whether products use TF32.

    Raises ParityError if there is no such device, or if it has no TF32 and the dtype is tf32.
    """
    device = torch.device(word)
    why = _missing(device)
    if why is not None:
        raise ParityError(
            f"--device {word}: {why}; this machine has {', '.join(devices_here())}: name one of these, or leave "
            "--device out"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if dtype == TF32:
        _check_tf32(device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == TF32
    return device


def devices_here() -> list[str]:
    """Return the words of all devices that can be used."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _missing(device: torch.device) -> str | None:
    """Return why the device cannot be used. None: it can."""
    if device.type == "cuda":
        if not torch.backends.cuda.is_built():
            return f"this torch ({torch.__version__}) is built without CUDA"
        if not torch.cuda.is_available():
            return "torch finds no GPU, or no driver for it"
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            return f"there is no GPU {device.index}, only {count} (0 to {count - 1})"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        if not torch.backends.mps.is_built():
            return f"this torch ({torch.__version__}) is built without MPS"
        return "macOS is too old, or has no such GPU"
    return None


def _check_tf32(device: torch.device) -> None:
    if device.type != "cuda" or torch.version.hip is not None:
        raise ParityError(f"--dtype tf32 is for NVIDIA GPUs, and the device is {device}; use --dtype float32")
    capability = torch.cuda.get_device_capability(device)
    if capability < _FIRST_WITH_TF32:
        raise ParityError(
            f"{torch.cuda.get_device_name(device)} has compute capability {_dotted(capability)}, and TF32 needs "
            f"{_dotted(_FIRST_WITH_TF32)}; use --dtype float32"
        )
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        raise ParityError("NVIDIA_TF32_OVERRIDE is 0, which turns TF32 off; unset it, or use --dtype float32")


def describe_device(device: torch.device) -> dict[str, str] | None:
    """Return what a report must say of a device: name, driver, TF32, kernels, yardstick. None for the CPU."""
    if device.type == "cpu":
        return None
    return {
        "name": str(device),
        **_hardware(device),
        "kernels": f"torch's on {device}; the port's own and those of other libraries are for the CPU",
        "yardstick": f"float64 on {device}" if has_float64(device) else f"float64 on the CPU, {device} has none",
        "random numbers": "drawn on the CPU",
    }


def device_name(device: torch.device) -> str:
    """Return what the maker calls the device, as far as torch knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _hardware(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    tf32 = {"products": torch.backends.cuda.matmul.allow_tf32, "cuDNN": torch.backends.cudnn.allow_tf32}
    return {
        "model": device_name(device),
        "capability": _dotted(torch.cuda.get_device_capability(device)),
        "driver": _driver(),
        "CUDA": str(torch.version.cuda or torch.version.hip),
        "cuDNN": str(torch.backends.cudnn.version()),
        "TF32": ", ".join(f"{what} {'on' if on else 'off'}" for what, on in tf32.items()),
    }


def _driver() -> str:
    """The kernel module's own line with the version of the NVIDIA driver."""
    try:
        return _DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0][:200]
    except (OSError, IndexError):
        return "not known"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def finishing(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return a run that ends when the device has finished, for timing. On the CPU it is ``run`` itself."""
    if device.type == "cpu":
        return run

    def finished() -> None:
        run()
        wait_for(device)

    return finished


def wait_for(device: torch.device) -> None:
    """Wait until the device has done everything that it was asked for. The CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
