"""``parity history``: margins over sign-offs and suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from parity.cli import console as view
from parity.cli.command import finish, here
from parity.documents.history import history_document
from parity.milestones.history import history as series_of
from parity.milestones.history import read_runs

_SHOWN = 12


def history(folder: Path, *, out: Path | None, as_json: bool) -> int:
    """Run the command. Returns 0: it judges no run."""
    runs, skipped = read_runs(folder)
    document = history_document(runs, series_of(runs), skipped, environment=here(threads=1))
    return finish(document, lambda console: _show(console, document), as_json=as_json, out=out)


def _show(console: Console, document: dict[str, Any]) -> None:
    runs = document["runs"]
    table = Table("run", "created", "what", "verdict", "commit", box=box.SIMPLE_HEAD, pad_edge=False)
    for run in runs:
        cells = (run["folder"], run["created"], run["kind"], run["label"], run["commit"][:12])
        table.add_row(*map(view.plain, cells))
    console.print(table)
    lines = Table("series", "first", "last", "noise", "shrank in", box=box.SIMPLE_HEAD, pad_edge=False)
    for series in document["series"][:_SHOWN]:
        known = [ratio for ratio in series["ratios"] if ratio is not None]
        shrank = "" if series["shrank"] is None else runs[series["shrank"]]["folder"]
        cells = (series["name"], f"{known[0]:.3g}", f"{known[-1]:.3g}", f"{series['noise']:.2g}", shrank)
        lines.add_row(*map(view.plain, cells))
    console.print(lines)
    for line in document["skipped"]:
        console.print(view.plain(f"not read: {line['folder']}: {line['why']}"), soft_wrap=True)
    first = document["first"]
    if first is None:
        console.print("no margin shrank by more than its noise")
        return
    series = next(line for line in document["series"] if line["name"] == first["series"][0])
    more = f", and {len(first['series']) - 1} more series" if len(first["series"]) > 1 else ""
    text = (
        f"a margin first shrank by more than its noise in {runs[first['run']]['folder']}: {series['name']} was "
        f"{series['before']:.3g} of its gate, then {series['ratios'][first['run']]:.3g} (noise {series['noise']:.2g})"
    )
    console.print(view.plain(text + more), soft_wrap=True)
