"""Measures how much additional memory a computation needs: of the process, or of the device that it runs on."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
from collections.abc import Callable

import psutil
import torch

from parity.engines.device import CPU, wait_for


def peak_memory(run: Callable[[], object], device: torch.device = CPU) -> float:
    """Return by how many bytes memory rises above its value at the start.

    On the CPU, resident memory; on CUDA, what torch's own counters say of tensors; on another device, samples of what
    its driver has allocated.
    """
    if device.type == "cuda":
        return _peak_of_cuda(run, device)
    if device.type == "mps":
        return _highest(run, torch.mps.driver_allocated_memory)
    _give_back_free_memory()
    process = psutil.Process()
    before = process.memory_info().rss
    if _reset_high_water_mark():
        run()
        return max(_high_water_mark() - before, 0)
    return _highest(run, lambda: process.memory_info().rss)


def _peak_of_cuda(run: Callable[[], object], device: torch.device) -> float:
    gc.collect()
    wait_for(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait_for(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _highest(run: Callable[[], object], used: Callable[[], int]) -> float:
    """Return how far ``used`` rises above its value at the start, as samples in a thread show it."""
    before = highest = used()
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, used())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        run()
    finally:
        done.set()
        sampler.join()
    return highest - before


def highest_memory() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None where the system does not tell."""
    return _high_water_mark() or None


def _give_back_free_memory() -> None:
    """Make glibc return freed memory to the system. Otherwise the next run could use it without being noticed."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_high_water_mark() -> bool:
    """Reset Linux's record of the highest resident memory, by writing 5. Returns whether that worked."""
    if sys.platform != "linux":
        return False
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _high_water_mark() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
