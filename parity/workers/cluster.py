"""Runs tasks on the workers of a Dask scheduler (extra: cluster). Only this module imports Dask.

Dask's processes send Python objects to one another by pickle. That is its own transport between processes that trust
each other: whoever can reach the scheduler can run code on the workers. What is sent here is the name of a function
and JSON text, and JSON text comes back; nothing that Dask sends is ever kept in a file or read from one.
"""

from __future__ import annotations

import platform
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, ParamSpec, TypeVar

from parity.core.errors import ParityError
from parity.workers.base import Workers
from parity.workers.messages import WorkerLost, call, message, refused, result
from parity.workers.state import kept

P = ParamSpec("P")
T = TypeVar("T")
SECONDS = 10.0
_WITHOUT_WORKERS = 60.0
_AHEAD = 4
# Models, mutants and torch's threads belong to the whole process, so that it does one task at a time.
_one_at_a_time = threading.Lock()


def run_there(text: str, same: str, expected: str) -> str:
    """Do a task in the process of a worker.

    ``same`` is a task that says what this installation is. If it says anything but ``expected``, the task is refused.
    """
    with _one_at_a_time:
        found = kept(same, lambda: call(same))
        if found != expected:
            return _refusal(found, expected)
        return call(text)


def installation(same: Callable[[], Any]) -> tuple[str, str]:
    """Return the task that says what an installation is, and what it says here."""
    text = message(same, ())
    return text, call(text)


def _refusal(found: str, expected: str) -> str:
    error = ParityError(
        f"the worker on {platform.node()} has another installation: {found[:500]}, here it is {expected[:500]}; "
        "install the same version there, and start its worker again"
    )
    return refused(error)


class Cluster(Workers):
    """The workers behind a scheduler. Raises ParityError if Dask is missing or nobody answers within ``seconds``.

    ``same`` returns plain data that must be the same on every worker, such as a digest of the code. ``without``: for
    how many seconds a run waits for workers when all of them are gone.
    """

    def __init__(
        self, address: str, same: Callable[[], Any], *, seconds: float = SECONDS, without: float = _WITHOUT_WORKERS
    ) -> None:
        super().__init__()
        try:
            from distributed import Client
            from distributed.comm import get_address_host_port
        except ModuleNotFoundError as error:
            raise ParityError(f"{error}, which --scheduler needs: pip install 'qwen3vl-parity[cluster]'") from None
        self._address, self._without = address, without
        try:
            if not address.startswith("inproc://"):  # a client that finds nobody is slow to close
                socket.create_connection(get_address_host_port(address), timeout=seconds).close()
            self._client: Any = Client(address, timeout=seconds, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ParityError(
                f"no Dask scheduler answers at {address!r} within {seconds:g} s ({error}); "
                "write it as tcp://HOST:8786, and see whether `dask scheduler` runs there"
            ) from None
        self._seen = time.monotonic()
        self._same = installation(same)
        try:
            self._client.wait_for_workers(1, timeout=seconds)
        except TimeoutError:
            self._client.close(timeout=1)
            raise ParityError(
                f"the scheduler at {address} has had no worker for {seconds:g} s; start `dask worker {address} "
                "--nthreads 1` on the machines that are to work"
            ) from None
        self.ahead = _AHEAD * max(1, len(self._workers()))

    def _workers(self) -> Any:
        return self._client.nthreads()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if kwargs:
            raise TypeError(f"the arguments {', '.join(kwargs)} have names; give a task as one JSON object")
        task = args[0] if args else None
        label, steps = ("a task", 1) if not isinstance(task, dict) else (task.get("label"), task.get("steps", 1))
        found: Future[T] = Future()
        found.set_running_or_notify_cancel()
        sent = self._client.submit(run_there, message(fn, args), *self._same, pure=False)

        def done(answer: Any) -> None:
            try:
                text = answer.result()
            except CancelledError as error:
                found.set_exception(ParityError(f"the scheduler at {self._address} is gone ({error}); run it again"))
            except Exception as error:
                found.set_exception(self._translated(error))
            else:
                for _ in range(steps):
                    self.said(str(label))
                try:
                    found.set_result(result(text))
                except Exception as error:
                    found.set_exception(error)

        sent.add_done_callback(done)
        return found

    def _translated(self, error: Exception) -> Exception:
        if type(error).__name__ == "KilledWorker":
            return WorkerLost(f"its worker on the cluster ended each time it was tried ({error})")
        return ParityError(f"the cluster at {self._address} could not do a task: {type(error).__name__}: {error}")

    def check(self) -> None:
        if self._client.status != "running":
            raise ParityError(f"the scheduler at {self._address} is gone; start it and run this again")
        now = time.monotonic()
        if self._workers():
            self._seen = now
        elif now - self._seen > self._without:
            raise ParityError(f"the scheduler at {self._address} has had no worker for {self._without:g} s")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._client.close(timeout=SECONDS)
