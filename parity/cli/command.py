"""Makes subcommands: their sections in ``parity --help``, their exit codes, and how errors are shown."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parity.cli.console import printing
from parity.cli.errors import UNTOUCHED, guarded
from parity.documents.environment import environment

# The sections of ``parity --help``, in order.
SECTIONS = {"judge": "Judge", "make": "Make", "measure": "Measure", "look": "Look"}
Action = Callable[..., int]
_BEGAN = "parity.began"


class SectionedGroup(click.Group):
    """A group whose help lists its commands by section."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, str] = {}  # command to section

    def add(self, command: click.Command, section: str) -> None:
        """Add a command to a section. Raises KeyError for an unknown section."""
        self.add_command(command)
        self.sections[str(command.name)] = SECTIONS[section]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, self.commands))
        for title in SECTIONS.values():
            rows = [
                (name, command.get_short_help_str(width))
                for name, command in self.commands.items()
                if self.sections[name] == title
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


def subcommand(
    group: click.Group,
    *,
    section: str | None = None,
    name: str | None = None,
    interrupted: str = UNTOUCHED,
    cls: type[click.Command] = click.Command,
    **settings: Any,
) -> Callable[[Action], click.Command]:
    """Return a decorator that makes a command of ``group`` from a function that returns an exit code.

    Errors become a message and an exit code; ``--debug`` shows the traceback. ``interrupted`` is the message at Ctrl-C.
    ``cls`` may be a group; its own function runs if no subcommand is named.
    """

    def decorate(action: Action) -> click.Command:
        @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
        @wraps(action)
        def run(*, debug: bool, **options: Any) -> None:
            if click.get_current_context().invoked_subcommand is not None:
                return
            click.get_current_context().meta[_BEGAN] = time.perf_counter()
            sys.exit(guarded(partial(action, **options), debug=debug, interrupted=interrupted))

        made = click.command(name, cls=cls, **settings)(run)
        if isinstance(group, SectionedGroup):
            group.add(made, str(section))
        else:
            group.add_command(made)
        return made

    return decorate


def elapsed() -> float:
    """Return the seconds since the command began, before it imported what it needs."""
    began: float = click.get_current_context().meta[_BEGAN]
    return time.perf_counter() - began


def here(*, threads: int, seed: int = 0, device: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the environment section of a document that this command makes. For ``device`` see ``environment``."""
    return environment(command=["parity", *sys.argv[1:]], seed=seed, threads=threads, device=device)


def say_annotations(document: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what fails for GitHub Actions; with ``--json``, whose output is one document, on the error stream."""
    from reports.annotations import annotation_lines

    for line in annotation_lines(document):
        click.echo(line, err=as_json)


def finish(
    document: Mapping[str, Any], show: Callable[[Console], None], *, as_json: bool, out: Path | None = None
) -> int:
    """Write a document's report to ``out`` if given, print or show it, and return the exit code of its verdict."""
    if out is not None:
        from reports.staging import Staged  # imports pandas and matplotlib, which chat and compare do not need
        from reports.write import write_report

        with Staged(out) as staged:
            write_report(document, staged.work)
    with printing() as console:
        if as_json:
            click.echo(json.dumps(document, allow_nan=False))
        else:
            show(console)
            if out is not None:
                click.echo(f"report: {out / 'report.html'}")
    code: int = document["verdict"]["exit_code"] if "verdict" in document else 0
    return code
