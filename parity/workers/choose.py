"""Chooses where tasks run: in this process, in several of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parity.core.errors import ParityError
from parity.workers.base import Workers
from parity.workers.here import ThisProcess
from parity.workers.processes import Processes

MOST = 256


def check_workers(count: int | None, scheduler: str | None) -> None:
    """Raise ParityError if both a number of workers and a scheduler are given."""
    if count is not None and scheduler is not None:
        raise ParityError("--workers and --scheduler cannot be used together; a cluster has workers of its own")


def make_workers(count: int | None, scheduler: str | None, same: Callable[[], Any]) -> Workers:
    """Return the executor that the options ask for; use it as a context manager. For ``same`` see ``Cluster``."""
    check_workers(count, scheduler)
    if scheduler is not None:
        from parity.workers.cluster import Cluster

        return Cluster(scheduler, same)
    return ThisProcess() if count is None or count == 1 else Processes(count)


def threads_each(threads: int, count: int | None) -> int:
    """Return the number of threads of each of ``count`` workers that share ``threads``: at least 1."""
    return max(1, threads // (count or 1))
