"""Times a whole verdict: the reference in float64, its floor runs, the port, and the comparison of every value."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.cases.registry import every_case
from parity.core.errors import ParityError
from parity.runs.case_run import run_case
from parity.runs.loader import Loader

CASE = "text"


@dataclass(frozen=True)
class VerdictTime:
    """Seconds to a verdict on a case, without imports, and those of the forwards of its ``passes`` alone."""

    case: str
    seconds: float
    forwards: float
    passes: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.forwards


def time_to_verdict(folder: Path, dtype: str, device: torch.device) -> VerdictTime:
    """Judge the port on a case of text, with the checkpoint in ``folder``. Raises ParityError if it raises there."""
    start = time.perf_counter()
    run = run_case(every_case()[CASE], Loader(device=device), dtype=dtype, folder=folder)
    if run.result.error is not None:
        raise ParityError(f"the port fails the case {CASE}, so a verdict cannot be timed: {run.result.error}")
    seconds = time.perf_counter() - start
    return VerdictTime(CASE, seconds, sum(each.alone for each in run.passes), len(run.passes))
