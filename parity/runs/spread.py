"""The calibration on any workers: a task for each case and seed, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from parity.cases.case import Case
from parity.cases.registry import every_case
from parity.kernels.registry import make_kernels
from parity.runs.calibration import Need, calibrate_one, planned
from parity.runs.loader import Loader
from parity.workers import state
from parity.workers.base import Task, Workers, run_tasks
from parity.workers.messages import number, plain


def measure_needs(task: Task) -> list[dict[str, Any]]:
    """Measure the needs of a task's case and seed, in whatever process this is called. Returns them as plain data."""
    state.say(task["label"])
    torch.set_num_threads(task["threads"])
    names = tuple(task["kernels"])
    kernels = state.kept(f"kernels {names}", lambda: [make_kernels(name) for name in names])
    case, loader = every_case()[task["case"]], state.kept("loader", Loader)
    found = calibrate_one(case, task["seed"], loader, dtype=task["dtype"], kernels=kernels)
    return [{**asdict(need), "m": plain(need.m)} for need in found]


def calibrate(
    cases: Sequence[Case], workers: Workers, *, dtype: str, seeds: int, kernels: Sequence[str], threads: int
) -> list[Need]:
    """Return the need of every correct run of every case, on ``seeds`` checkpoints of each case.

    Raises WorkerLost if the worker of a case ended each time: no calibration stands on a part of its runs.
    """
    steps = planned(cases, seeds)
    tasks: list[Task] = [
        {
            "case": case.name,
            "seed": seed,
            "dtype": dtype,
            "kernels": list(kernels),
            "threads": threads,
            "group": f"{case.checkpoint.label} {seed}",
            "label": f"{dtype}, seed {seed}, {case.name}",
        }
        for seed, case in steps
    ]
    found: dict[int, list[Need]] = {}
    for place, answer in run_tasks(workers, measure_needs, tasks):
        found[place] = [Need(**{**need, "m": number(need["m"])}) for need in answer]
    return [need for place in range(len(steps)) for need in found[place]]
