"""``parity signoff diff``: two records beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from parity.cli import console as view
from parity.cli.command import finish, here
from parity.core.errors import ParityError
from parity.documents.difference import difference_document
from parity.milestones.records import verify
from parity.milestones.records.record import RECORD
from parity.milestones.records.verify import Record

_SHOWN = 10


def diff(before: Path, after: Path, *, out: Path | None, as_json: bool) -> int:
    """Run the command. Returns 1 if a verdict or a discrete figure differs."""
    document = difference_document(_record(before), _record(after), environment=here(threads=1))
    return finish(document, lambda console: _show(console, document), as_json=as_json, out=out)


def _record(path: Path) -> Record:
    record = verify.read_record(path / RECORD if path.is_dir() else path)
    fault = next(verify.changed(record), None)
    if fault is not None:
        raise ParityError(f"{record.path} does not hold: {fault}; compare records that `parity signoff verify` accepts")
    return record


def _show(console: Console, document: dict[str, Any]) -> None:
    table = Table("phase", "milestone", "before", "after", box=box.SIMPLE_HEAD, pad_edge=False)
    for line in document["milestones"]:
        cells = (str(line["phase"]), line["title"], line["before"] or "absent", line["after"] or "absent")
        table.add_row(*map(view.plain, cells))
    console.print(table)
    for line in document["settings"]:
        console.print(view.plain(f"{line['name']}: {line['before']} before, {line['after']} after"), soft_wrap=True)
    for line in document["discrete"][:_SHOWN]:
        text = f"{line['item']}, {line['place']}: {line['before']} before, {line['after']} after"
        console.print(view.plain(text), soft_wrap=True)
    for line in document["seams"][:_SHOWN]:
        ratios = [f"{value:.3g}" if value is not None else "none" for value in (line["before"], line["after"])]
        console.print(view.plain(f"{line['seam']}: worst ratio {ratios[0]} before, {ratios[1]} after"))
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)
