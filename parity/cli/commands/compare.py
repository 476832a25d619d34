"""``parity compare``: compares two trace folders; further correct runs make the floors. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parity.bundles.bundle import Bundle
from parity.bundles.layouts.layout import Layout
from parity.bundles.problems import problems_against
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.errors import USAGE
from parity.cli.offers import of_case, offered
from parity.core.binding import check_binding, check_width
from parity.core.compare import Comparison, compare
from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import FolderTrace, check_folder
from parity.core.gates import DEFAULT_GATE, FloatGate
from parity.core.trace import Description, Trace
from parity.core.verdict import judge
from parity.documents.comparison import comparison_document
from parity.seams.contract import check_reference
from parity.seams.names import check_names
from parity.seams.promise import promise


@dataclass(frozen=True)
class CompareOptions:
    """The options of ``parity compare``. ``multiple`` is the gate's m; None: the project's m."""

    subject: Path
    reference: Path
    floors: tuple[Path, ...]
    multiple: float | None
    out: Path | None
    as_json: bool
    every: bool


def compare_folders(options: CompareOptions) -> int:
    """Judge a subject's folder against the reference's. Returns the exit code of the verdict."""
    if not options.floors:
        raise ParityError(
            "no floor: give at least one further correct run with --floor; "
            "`parity run --traces DIR` writes some to DIR/floor-1, DIR/floor-2, ..."
        )
    gate = DEFAULT_GATE if options.multiple is None else FloatGate(m=options.multiple, ulps=DEFAULT_GATE.ulps)
    reference, subject = FolderTrace(options.reference), FolderTrace(options.subject)
    runs = [FolderTrace(folder) for folder in options.floors]
    check_reference(reference)
    check_names(subject, reference, of_any_model=True)
    check_binding(subject, reference, runs)
    floors = Floors(reference)
    for run in runs:
        _observe(floors, run)
    check_width(floors, subject.description.dtype)
    findings = compare(subject, Comparison(reference, floors, gate))
    document = comparison_document(
        findings,
        judge(findings),
        subject=subject,
        reference=reference,
        floors=[str(folder) for folder in options.floors],
        gate=gate,
        environment=here(threads=1),
    )
    return finish(
        document,
        lambda console: _show(console, document, options, subject.description),
        as_json=options.as_json,
        out=options.out,
    )


def _observe(floors: Floors, run: Trace) -> None:
    entries = floors.yardstick.entries()
    for entry in run:
        if entry.key in entries and entries[entry.key].gate == "float":
            floors.observe(entries[entry.key], run.read(entry.key))


def check_folders(folders: Sequence[Path]) -> int:
    """Print the problems of trace folders. Returns 0 if there are none, otherwise 2."""
    return _listed({folder: check_folder(folder) for folder in folders})


def check_against(bundle: Path, folders: Sequence[Path], expect: str, layout: Path | None) -> int:
    """Print the problems of traces for a bundle. Returns 0 if there are none, otherwise 2."""
    promised, mapped = promise(expect), None if layout is None else Layout(layout)
    opened = Bundle(bundle)
    found: dict[Path, list[str]] = {}
    for folder in folders:
        for place, problems in problems_against(opened, folder, promised, mapped).items():
            found[place] = [*(check_folder(place) if place.is_dir() else []), *problems]
    return _listed(found)


def _listed(found: Mapping[Path, Sequence[str]]) -> int:
    with view.printing():
        for folder, problems in found.items():
            count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
            click.echo(f"{view.harmless(str(folder))}: {count if problems else 'sound'}")
            for problem in problems:
                click.echo(f"  {view.harmless(problem)}")
    return USAGE if any(found.values()) else 0


def _show(console: Console, document: dict[str, Any], options: CompareOptions, side: Description) -> None:
    verdict = document["verdict"]
    console.print(view.findings_table(document["findings"], first=verdict["first_divergence"], every=options.every))
    floors = view.plain(", ".join(document["floors"]))
    console.print(f"by the floors of {floors}; `parity judge` takes them from a golden bundle", soft_wrap=True)
    console.print(view.verdict_line(verdict), soft_wrap=True)
    if verdict["value"] == "DIVERGED" and _is_case(side.case):
        words = of_case(side.case, side.dtype, traces=options.subject)
        console.print(view.plain(offered(*words)), soft_wrap=True)


def _is_case(name: str) -> bool:
    """Whether the registry has the case. A diagnosis runs the port, so that nothing is offered without the extras."""
    try:
        from parity.cases.registry import every_case  # lists media, which takes a moment
    except ImportError:
        return False
    return name in every_case()
