"""What all executors here have in common, and the loop that runs tasks on any of them."""

from __future__ import annotations

import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from parity.workers.messages import WorkerLost

P = ParamSpec("P")
T = TypeVar("T")
Task = dict[str, Any]
_LOOK_SECONDS = 5.0


class Workers(Executor):
    """A ``concurrent.futures.Executor`` for functions that are found by name, with JSON in and out.

    A task of the form ``{"group": ..., ...}`` goes, where there is a choice, to a process that had the same group
    before: it still has its checkpoint. ``ahead`` is the number of tasks that should be submitted before their turn.
    """

    ahead: int | None = None

    def __init__(self) -> None:
        self._listener: Callable[[str], None] = lambda _what: None
        self._speaking = threading.Lock()

    @abstractmethod
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do ``fn(*args)`` somewhere. Raises TypeError for arguments that are no plain data, or have names."""

    def watch(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with each piece of work that begins."""
        self._listener = listener

    def said(self, what: str) -> None:
        """Pass on what a worker said. Threads may call this at the same time."""
        with self._speaking:
            self._listener(what)

    def check(self) -> None:
        """Raise ParityError if nothing can go on, for example because no worker is left."""


def run_tasks(
    workers: Executor,
    function: Callable[[Task], Any],
    tasks: Sequence[Task],
    *,
    lost: Callable[[Task, WorkerLost], Any] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield the place and the result of each task as it is finished.

    A task whose worker ended each time gives ``lost(task, error)``, or raises WorkerLost without it. Any other error
    of a task is raised, and what is still waiting is cancelled.
    """
    ahead = getattr(workers, "ahead", None) or len(tasks)
    left = iter(enumerate(tasks))
    places: dict[Future[Any], int] = {}
    # A queue, because to wait for thousands of futures anew after each costs more than the tasks.
    ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    try:
        while True:
            for place, task in left:
                future = workers.submit(function, task)
                places[future] = place
                future.add_done_callback(ended.put)
                if len(places) >= ahead:
                    break
            if not places:
                return
            try:
                future = ended.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if isinstance(workers, Workers):
                    workers.check()
                continue
            place = places.pop(future)
            yield place, _result(future, tasks[place], lost)
    finally:
        for future in places:
            future.cancel()


def _result(future: Future[Any], task: Task, lost: Callable[[Task, WorkerLost], Any] | None) -> Any:
    try:
        return future.result()
    except WorkerLost as error:
        if lost is None:
            raise
        return lost(task, error)
