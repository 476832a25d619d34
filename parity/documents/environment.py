"""The environment of a run: versions, machine, threads. It comes first in each report."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("qwen3vl-parity", "torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy")


def environment(
    *, command: Sequence[str], seed: int, threads: int, device: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a record for JSON. ``threads`` is the number of threads that torch was told to use.

    ``device`` describes the device on which the models ran; None: the CPU.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "seed": seed,
        "threads": threads,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        **({} if device is None else {"device": dict(device)}),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:
                models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        except OSError:
            models = []
        if models:
            return f"{models[0]}, {os.cpu_count()} logical"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} logical"
