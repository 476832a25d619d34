"""``parity seams`` and ``parity cases``."""

from __future__ import annotations

import json

import click
from rich import box
from rich.table import Table

from parity.cases.registry import every_case
from parity.cases.standard import standard_suite
from parity.cli.console import plain, printing
from parity.seams.generation import generation_specs
from parity.seams.model import model_specs
from parity.seams.processor import processor_specs


def print_seams(*, as_json: bool) -> int:
    lines: list[dict[str, object]] = [
        {"name": spec.name, "axes": list(spec.layout), "gate": spec.gate, "group": spec.group, "where": spec.where}
        for spec in (*processor_specs(), *model_specs(), *generation_specs())
    ]
    _print(lines, ["name", "axes", "gate", "where"], as_json=as_json)
    return 0


def print_cases(*, as_json: bool) -> int:
    suite = {case.name for case in standard_suite()}
    lines: list[dict[str, object]] = [
        {
            "name": case.name,
            "phase": case.phase,
            "suite": case.name in suite,
            "checkpoint": case.checkpoint.label,
            "rows": len(case.rows),
            "mode": case.mode,
            "title": case.title,
        }
        for case in every_case().values()
    ]
    _print(lines, ["name", "phase", "suite", "rows", "mode", "title"], as_json=as_json)
    return 0


def _print(lines: list[dict[str, object]], columns: list[str], *, as_json: bool) -> None:
    with printing() as console:
        if as_json:
            click.echo(json.dumps(lines))
            return
        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for line in lines:
            table.add_row(*(plain(_cell(line[column])) for column in columns))
        console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
