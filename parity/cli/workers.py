"""The options that say where runs are computed: ``--workers`` and ``--scheduler``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from parity.workers.base import Workers
from parity.workers.choose import MOST, make_workers, threads_each

F = TypeVar("F", bound=Callable[..., Any])
fresh_option = click.option("--fresh", is_flag=True, help="Run everything, also what an earlier run has finished.")


@dataclass(frozen=True)
class Where:
    """The number of worker processes, or the address of a Dask scheduler. Without both, runs are in this process."""

    workers: int | None = None
    scheduler: str | None = None


workers_option = click.option(
    "--workers", type=click.IntRange(1, MOST), help="Run in this many processes, which share the threads."
)
_scheduler_option = click.option(
    "--scheduler", metavar="ADDRESS", help="Run on the workers of a Dask scheduler (extra: cluster)."
)


def workers_options(command: F) -> F:
    """Add ``--workers`` and ``--scheduler`` to a command."""
    return workers_option(_scheduler_option(command))


def workers_for(where: Where) -> Workers:
    """Return the executor that the options ask for; use it as a context manager."""
    from parity.milestones.keys import installed

    return make_workers(where.workers, where.scheduler, installed)


def threads_of(wanted: int | None, where: Where) -> int:
    """Return the number of threads of each run, and set it for this process.

    Workers share ``wanted`` threads, or as many as torch takes here. On a cluster, each run gets ``wanted``, or 1.
    """
    import torch

    if where.scheduler is not None:
        threads = wanted or 1
    else:
        threads = threads_each(wanted or torch.get_num_threads(), where.workers)
    torch.set_num_threads(threads)
    return threads
