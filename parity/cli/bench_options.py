"""The options of ``parity bench``, checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.cli.checks import check_device, check_model
from parity.core.errors import ParityError
from parity.engines.registry import engine


@dataclass(frozen=True)
class BenchOptions:
    model: str | None
    shape: str | None
    dtype: str
    kernels: str
    clock: Literal["wall", "processor"] | None
    seconds: float
    curves: bool
    check: bool
    accepted: Path | None
    accept: Path | None
    out: Path | None
    threads: int | None
    as_json: bool
    device: str = "cpu"
    beside: str | None = None
    verdict: bool | None = None
    works: tuple[str, ...] = ()


def check_bench(given: BenchOptions) -> None:
    """Raise ParityError for options that contradict each other, and for a file that is not there."""
    if given.model is not None and given.shape is not None:
        raise ParityError(f"MODEL {given.model} and --shape {given.shape} name two checkpoints; leave one of them out")
    if given.accepted is not None and not given.check:
        raise ParityError("--accepted is only used with --check; add it, or leave --accepted out")
    if given.check and given.accept is not None:
        raise ParityError("--check and --accept cannot be used together: figures are accepted before they are checked")
    if given.works and given.accept is not None:
        raise ParityError("--work and --accept cannot be used together: a session is accepted as a whole")
    if given.accepted is not None and not given.accepted.is_file():
        raise ParityError(f"{given.accepted} is no file; make it with bench --accept {given.accepted}")
    if given.clock == "processor" and given.device != "cpu":
        raise ParityError(
            f"--clock processor counts what the CPU works, and the device is {given.device}; leave --clock out"
        )
    if given.beside is not None:
        if given.check or given.accept is not None or given.device != "cpu":
            raise ParityError("--beside is measured on the CPU, and without --check or --accept")
        if given.dtype == "tf32":
            raise ParityError(f"{given.beside} has no tf32; choose float32 or bfloat16")
        if (why := engine(given.beside).unavailable()) is not None:
            raise ParityError(why)
    check_device(given.device, given.dtype)
    check_model(given.model)
