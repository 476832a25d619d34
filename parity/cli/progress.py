"""A progress bar on stderr, so that stdout only has results. It is only shown on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from parity.cli.console import make_console


class Bar:
    """A progress bar of known length. It does nothing if there is no terminal."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._task = progress.add_task("", total=total) if progress else None

    def __call__(self, what: str) -> None:
        """Show that the next piece of work begins."""
        if self._progress is not None and self._task is not None:
            done = self._progress.tasks[0].fields.get("begun", 0)
            self._progress.update(self._task, description=what, completed=min(done, self._total), begun=done + 1)


@contextmanager
def progress_bar(total: int, *, quiet: bool) -> Iterator[Bar]:
    """Give a bar for ``total`` pieces of work. With ``quiet``, nothing is shown."""
    console = make_console(stderr=True)
    if quiet or not console.is_terminal:
        yield Bar(None, total)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, total)
