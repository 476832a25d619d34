"""Runs tasks in processes of this machine. A process that dies costs its task another try, and nothing else.

``ProcessPoolExecutor`` gives up all that runs and waits when one of its processes dies, so it is not used. Processes
are spawned: torch's threads do not survive a fork.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from parity.workers.base import Workers
from parity.workers.messages import WorkerLost, message, result
from parity.workers.serve import DONE, serve

P = ParamSpec("P")
T = TypeVar("T")
TRIES = 3
_JOIN_SECONDS = 5.0


@dataclass
class _Job:
    future: Future[Any]
    text: str
    group: str
    tries: int = 0


class Processes(Workers):
    """``count`` worker processes, started when there is work for them. ``tries``: how often a task is tried at most."""

    def __init__(self, count: int, *, tries: int = TRIES) -> None:
        super().__init__()
        self._tries = tries
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[_Job]] = {}
        self._open, self._stopped = True, False
        self._slots = [_Slot(self, f"worker {number}") for number in range(1, count + 1)]

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if kwargs:
            raise TypeError(f"the arguments {', '.join(kwargs)} have names; give a task as one JSON object")
        first = args[0] if args else None
        group = str(first.get("group", "")) if isinstance(first, dict) else ""
        job = _Job(Future(), message(fn, args), group)
        with self._changed:
            if not self._open:
                raise RuntimeError("the workers are shut down, they take no further task")
            self._waiting.setdefault(group, deque()).append(job)
            self._changed.notify()
        for slot in self._slots:
            slot.start()
        return job.future

    def take(self, slot: _Slot) -> _Job | None:
        """Wait for a task for a slot: of its group, or of one that nobody has, or of the longest. None at the end."""
        with self._changed:
            while True:
                if self._stopped or (not self._waiting and not self._open):
                    return None
                if self._waiting:
                    busy = {other.group for other in self._slots if other is not slot}
                    groups = sorted(self._waiting, key=lambda name: (name in busy, -len(self._waiting[name])))
                    slot.group = slot.group if slot.group in self._waiting else groups[0]
                    job = self._waiting[slot.group].popleft()
                    if not self._waiting[slot.group]:
                        del self._waiting[slot.group]
                    return job
                self._changed.wait()

    def died(self, job: _Job, what: str) -> None:
        """Try a task again whose process died, or give it up."""
        job.tries += 1
        with self._changed:
            if not self._stopped and job.tries < self._tries:
                self._waiting.setdefault(job.group, deque()).appendleft(job)
                self._changed.notify()
                return
        stopped = "the workers were stopped" if self._stopped else f"it was tried {job.tries} times"
        job.future.set_exception(WorkerLost(f"its worker process {what}; {stopped}"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._open = False
            if cancel_futures:
                self._cancel()
            self._changed.notify_all()
        if wait:
            for slot in self._slots:
                slot.join()

    def stop(self) -> None:
        """End all processes at once. Tasks that ran are lost, those that waited are cancelled."""
        with self._changed:
            self._open, self._stopped = False, True
            self._cancel()
            self._changed.notify_all()
        for slot in self._slots:
            slot.kill()
        self.shutdown()

    def _cancel(self) -> None:
        for jobs in self._waiting.values():
            for job in jobs:
                job.future.cancel()
        self._waiting.clear()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.stop()


class _Slot:
    """A thread with one process, which is started again after it died."""

    def __init__(self, workers: Processes, name: str) -> None:
        self.group: str | None = None
        self._workers, self._name = workers, name
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._guard = threading.Lock()
        self._killed = False
        self._thread = threading.Thread(target=self._run, name=f"parity {name}", daemon=True)

    def start(self) -> None:
        """Start the thread, if it has not been."""
        if self._thread.ident is None:
            self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def kill(self) -> None:
        """End the process at once, and let no further one start."""
        with self._guard:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def _run(self) -> None:
        while (job := self._workers.take(self)) is not None:
            if job.future.cancelled() or (job.tries == 0 and not job.future.set_running_or_notify_cancel()):
                continue
            try:
                answer = self._ask(job.text)
            except (EOFError, OSError) as error:
                self._workers.died(job, self._ended(error))
                continue
            try:
                job.future.set_result(result(answer))
            except Exception as error:
                job.future.set_exception(error)
        self._end()

    def _ask(self, text: str) -> str:
        """Send a task to the process and wait for its answer. Raises EOFError or OSError if the process died."""
        pipe = self._connected()
        pipe.send_bytes(text.encode("utf-8"))
        while True:
            kind, told = json.loads(pipe.recv_bytes().decode("utf-8"))
            if kind == DONE:
                return str(told)
            self._workers.said(told)

    def _connected(self) -> Connection:
        with self._guard:
            if self._killed:
                raise EOFError
            if self._pipe is None:
                context = multiprocessing.get_context("spawn")
                ours, theirs = context.Pipe()
                quiet = logging.root.manager.disable >= logging.WARNING
                self._process = context.Process(target=serve, args=(theirs, quiet), name=self._name, daemon=True)
                self._process.start()
                theirs.close()  # so that the end of the process is the end of the pipe
                self._pipe = ours
            return self._pipe

    def _ended(self, error: BaseException) -> str:
        """Say how the process ended, and forget it. The next task gets a new one."""
        process = self._process
        if process is None:
            return f"could not be started ({error})"
        process.join(_JOIN_SECONDS)
        code = process.exitcode
        self._end()
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            memory = "; the machine may be out of memory" if name == "SIGKILL" else ""
            return f"was ended by {name}{memory}"
        return f"ended with exit code {code}"

    def _end(self) -> None:
        with self._guard:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.join(_JOIN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
