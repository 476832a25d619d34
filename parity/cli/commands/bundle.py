"""``parity bundle check`` and ``parity bundle show``. They need no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.cli import console as view
from parity.cli.errors import USAGE
from parity.core.errors import ParityError


def check_bundle(folder: Path, *, sha256: str | None) -> int:
    """Print whether a bundle is sound, or everything that is wrong with its stages. Returns 0 or 2."""
    bundle = Bundle(folder, sha256=sha256)
    problems = list(_problems(bundle))
    with view.printing():
        for problem in problems:
            click.echo(view.harmless(problem))
        count = len(bundle.cases)
        what = f"{len(problems)} of its stages cannot be used" if problems else "sound"
        click.echo(f"{view.harmless(str(folder))}: {what}; {count} case{'s' if count > 1 else ''}, {bundle.sha256}")
    return USAGE if problems else 0


def show_bundle(folder: Path, *, as_json: bool) -> int:
    """Print what a bundle holds, and how an engine is fed."""
    bundle = Bundle(folder)
    with view.printing() as console:
        if as_json:
            click.echo(json.dumps(bundle.document))
            return 0
        made = ", ".join(f"{name} {version}" for name, version in bundle.versions.items())
        size = sum(item["bytes"] for item in bundle.document["files"].values())
        console.print(view.plain(f"{folder}: {size / 1e6:,.1f} MB, made with {made}"), soft_wrap=True)
        console.print(f"sha256 {bundle.sha256}", soft_wrap=True)
        for case in bundle.cases.values():
            console.print()
            console.print(_table(case))
        for left_out in bundle.document["left_out"]:
            console.print(view.plain(f"not in the bundle: {left_out['name']}; {left_out['why']}"), soft_wrap=True)
        console.print(
            "\nRun the engine on the inputs (or, for the processor, on the rows and their media), feed the decode "
            "tokens, and write a trace folder;\n`parity seams` explains each seam. Then: "
            f"{view.plain(f'parity judge {folder} TRACE')}",
            soft_wrap=True,
        )
    return 0


def _problems(bundle: Bundle) -> Iterator[str]:
    for case in bundle.cases.values():
        for stage in case.stages:
            for dtype in case.dtypes_of(stage):
                try:
                    check_stage(case, stage, dtype)
                except ParityError as error:
                    yield str(error)


def _table(case: BundleCase) -> Table:
    record = case.record
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(case, record):
        table.add_row(name, view.plain(value))
    return table


def _facts(case: BundleCase, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "case", f"{case.name}: {record['title']}"
    checkpoint = record["checkpoint"]
    place = checkpoint["folder"] or "not in the bundle"
    yield "checkpoint", f"{checkpoint['name']} ({checkpoint['dtype']}), {checkpoint['sha256']}; {place}"
    for request in record["before"]:
        yield "first serve", _prompt(request)
    yield "feed", f"{_prompt(record)}; {record['decode_steps']} decode steps"
    for request in record["between"]:
        yield "serve in turn", _prompt(request)
    if record["chunk"] is not None:
        yield "prefill", f"in chunks of {record['chunk']} tokens"
    inputs = case.inputs
    if inputs is not None:
        tensors = (f"{name} {list(inputs.read(name).shape)}" for name in sorted(inputs.names))
        yield "inputs", f"{inputs.path.relative_to(case.folder).as_posix()}: {', '.join(tensors)}"
    for stage in case.stages:
        for dtype in case.dtypes_of(stage):
            yield f"{stage}, {dtype}", _stage(case, stage, dtype)


def _stage(case: BundleCase, stage: str, dtype: str) -> str:
    reference = case.reference(stage, dtype)
    gates = [entry.gate for entry in reference]
    counts = ", ".join(f"{gates.count(gate)} {gate}" for gate in dict.fromkeys(gates))
    if stage == "processor":
        return f"{len(gates)} seams ({counts})"
    part = case.part(dtype, stage)
    floors = f"floors from {' | '.join(part['floor_runs'])}"
    if stage == "generation":
        return f"{len(gates)} seams ({counts}); {len(case.record['generation']['requests'])} requests; {floors}"
    tokens = "; ".join(" ".join(map(str, row)) for row in part["decode_tokens"])
    return f"{len(gates)} seams ({counts}); decode tokens {tokens}; {floors}"


def _prompt(request: Mapping[str, Any]) -> str:
    rows = [
        " ".join(part["text"] if part["type"] == "text" else f"[{part['file']}]" for part in row)
        for row in request["rows"]
    ]
    padding = f"; padded on the {request['padding_side']}" if len(rows) > 1 else ""
    return " / ".join(rows) + padding
