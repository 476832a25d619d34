"""Runs tasks in this process, one after another: what ``--workers 1`` means."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import ParamSpec, TypeVar

from parity.workers import state
from parity.workers.base import Workers

P = ParamSpec("P")
T = TypeVar("T")


class ThisProcess(Workers):
    """A task is done when it is submitted. Use as a context manager: at the end, what was kept is dropped."""

    ahead = 1

    def __enter__(self) -> ThisProcess:
        self._stack = ExitStack()
        self._stack.enter_context(state.process_state(self.said))
        return self

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # Ctrl-C goes on at once
            future.set_exception(error)
        return future

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stack.close()
