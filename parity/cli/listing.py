"""``parity seams`` and ``parity cases``."""

from __future__ import annotations

import json

import click
from rich import box
from rich.table import Table

from parity.cli.console import plain, printing
from parity.qwen3vl.seams import all_specs


def print_seams(*, as_json: bool) -> int:
    lines: list[dict[str, object]] = [
        {"name": spec.name, "axes": list(spec.layout), "gate": spec.gate, "group": spec.group, "where": spec.where}
        for spec in all_specs()
    ]
    _print(lines, ["name", "axes", "gate", "where"], as_json=as_json)
    return 0


def print_cases(*, as_json: bool) -> int:
    from parity.qwen3vl.cases import standard_suite  # media brings in the reference's packages

    lines: list[dict[str, object]] = [
        {
            "name": case.name,
            "phase": case.phase,
            "checkpoint": case.checkpoint.label,
            "rows": len(case.rows),
            "mode": case.mode,
            "title": case.title,
        }
        for case in standard_suite()
    ]
    _print(lines, ["name", "phase", "rows", "mode", "title"], as_json=as_json)
    return 0


def _print(lines: list[dict[str, object]], columns: list[str], *, as_json: bool) -> None:
    with printing() as console:
        if as_json:
            click.echo(json.dumps(lines))
            return
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for line in lines:
            cells = [line[column] for column in columns]
            texts = (" ".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in cells)
            table.add_row(*map(plain, texts))
        console.print(table)
