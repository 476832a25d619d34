"""Times both sides in turn, after a warm-up, and measures peak memory. The ratios matter more than the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from parity.bench.memory import peak_memory
from parity.engines.base import ModelEngine, TensorMap, on_device
from parity.engines.device import CPU, finishing

BUDGET = 30.0  # seconds for the timed runs of both sides
What = Literal["vision", "prefill", "decode"]


@dataclass
class Samples:
    """Seconds of each timed run, and the largest amount of additional memory in the warm-up."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "median": statistics.median(self.seconds),
            "min": min(self.seconds),
            "max": max(self.seconds),
            "runs": len(self.seconds),
            "peak_bytes": self.peak_bytes,
        }


def measure(
    subject: ModelEngine,
    reference: ModelEngine,
    inputs: TensorMap,
    tokens: Tensor,
    *,
    runs: int,
    progress: Callable[[], None],
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Measure vision tower, prefill and decode steps of both sides.

    Each side has one warm-up, in which memory is measured. Then follow ``runs`` timed runs in turn (subject,
    reference, subject, ...), so that a machine that slows down affects both; fewer if they take longer than ``BUDGET``,
    since a long run varies less. A prefill includes the vision tower. Both sides run on ``device``; a time ends when
    the device has finished.
    """
    inputs, tokens = on_device(inputs, device), tokens.to(device)
    memory, seconds = partial(peak_memory, device=device), partial(_seconds, device=device)
    sides = {"subject": subject, "reference": reference}
    samples: dict[What, dict[str, Samples]] = {}
    start = time.perf_counter()
    for side, engine in sides.items():
        for what, peak in _once(engine, inputs, tokens, memory).items():
            samples.setdefault(what, {name: Samples() for name in sides})[side].peak_bytes = int(max(peak))
        progress()
    runs = timed_runs(runs, time.perf_counter() - start)
    for _ in range(runs):
        for side, engine in sides.items():
            for what, taken in _once(engine, inputs, tokens, seconds).items():
                samples[what][side].seconds.extend(taken)
            progress()
    amounts = {"vision": _patches(inputs), "prefill": int(inputs["attention_mask"].sum()), "decode": len(tokens)}
    memory_of = "resident memory" if device.type == "cpu" else f"memory on {device}"
    return {
        "note": f"{runs} timed run{'s' if runs > 1 else ''} of each side in turn after one warm-up; peak memory is how "
        f"far the warm-up's {memory_of} rose above its start; a prefill includes the vision tower",
        "rows": [_row(what, samples[what], amounts[what]) for what in samples],
    }


def _row(what: What, sides: dict[str, Samples], amount: int) -> dict[str, Any]:
    figures = {side: samples.to_json() for side, samples in sides.items()}
    return {
        "what": what,
        "unit": "s",
        **figures,
        "ratio": figures["subject"]["median"] / figures["reference"]["median"],
        "per_second": {
            **{side: amount / figure["median"] for side, figure in figures.items()},
            "unit": "patches/s" if what == "vision" else "tokens/s",
        },
    }


def timed_runs(most: int, warm_up: float) -> int:
    """How many timed runs of both sides fit in the budget, at least one. ``warm_up``: the seconds of one of both."""
    return most if warm_up * most <= BUDGET else max(1, int(BUDGET / warm_up))


Meter = Callable[[Callable[[], object]], float]


def _once(engine: ModelEngine, inputs: TensorMap, tokens: Tensor, meter: Meter) -> dict[What, list[float]]:
    """Apply ``meter`` to the vision tower, to a prefill, and to each decode step."""
    values: dict[What, list[float]] = {}
    if "pixel_values" in inputs or "pixel_values_videos" in inputs:
        values["vision"] = [meter(lambda: engine.vision(inputs))]
    session = engine.session(inputs, steps=tokens.shape[1])
    values["prefill"] = [meter(session.prefill)]
    if tokens.shape[1]:
        steps = [tokens[:, step : step + 1] for step in range(tokens.shape[1])]
        values["decode"] = [meter(lambda token=token: session.decode(token)) for token in steps]  # type: ignore[misc]
    return values


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    run = finishing(run, device)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _patches(inputs: TensorMap) -> int:
    return sum(len(inputs[name]) for name in ("pixel_values", "pixel_values_videos") if name in inputs)
