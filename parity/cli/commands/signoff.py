"""``parity signoff``: signs off milestones, and writes a record that can be checked later."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from parity.cli import console as view
from parity.cli.command import here, say_annotations
from parity.cli.progress import progress_bar
from parity.cli.signoff_options import SignoffOptions
from parity.cli.workers import Where, threads_of, workers_for
from parity.documents.folders import report_folder
from parity.documents.pictures import pictures_of, take_over
from parity.documents.signoff import signoff_document
from parity.documents.signoff_run import signoff_source, spread_over
from parity.milestones.collect import EVIDENCE, Collected, collect, every_item, file_name, read_earlier
from parity.milestones.keys import checkout, code_digest, versions
from parity.milestones.plan import Milestones, milestones_of
from parity.milestones.records.evidence import validator
from parity.milestones.records.record import RECORD, Surroundings, dump, make_record, verdicts
from reports.atomic import make_folder, write_bytes, write_files
from reports.junit import junit
from reports.kinds.signoff import KIND
from reports.write import write_report

_COLOURS = {"SIGNED OFF": "PARITY", "REFUSED": "DIVERGED", "INCOMPLETE": "INCOMPLETE", "INVALID": "INVALID"}


def signoff(options: SignoffOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    milestones = milestones_of(options.milestones)
    threads = _threads(milestones, options)
    phases = milestones.chosen(options.phases)
    folder = report_folder(options.out, "signoff")
    start = time.perf_counter()
    state, code, found = checkout(), code_digest(), versions()
    environment = here(threads=threads)
    source = signoff_source(milestones, folder)
    earlier = read_earlier(options.reuse)
    make_folder(folder / EVIDENCE)  # before anything runs
    items = every_item(phases)
    count = len(items if options.shard is None else options.shard.mine(items))

    def keep(name: str, evidence: Mapping[str, Any]) -> None:
        write_bytes(folder / EVIDENCE / name, data=dump(evidence))

    with progress_bar(count, quiet=options.as_json) as step, workers_for(Where(options.workers)) as workers:
        spread = spread_over(
            workers, source, milestones=options.milestones, folder=folder, threads=threads, progress=step
        )
        give = spread if (options.workers or 1) > 1 else None
        collected = collect(phases, source, earlier, keep=keep, shard=options.shard, give=give, progress=step)
    about = Surroundings(
        state, code, source.checkpoints(), found, environment, round(time.perf_counter() - start, 3), date.today()
    )
    if options.reuse is not None:
        take_over(options.reuse, folder, [Path(file_name(name)).stem for name in collected.reused])
    return conclude(milestones, [phase.number for phase in phases], collected, about, folder, options)


def conclude(
    milestones: Milestones,
    phases: Sequence[int],
    collected: Collected,
    about: Surroundings,
    folder: Path,
    options: SignoffOptions,
) -> int:
    """Judge the evidence, and write record and reports. Returns the exit code of the verdict."""
    judged = verdicts(milestones, phases, collected.evidence, today=about.today)
    statement = make_record(milestones, judged, collected, about)
    validator().validate(statement)
    stems = [Path(file_name(name)).stem for name in collected.evidence]
    document = signoff_document(statement, pictures_of(folder, stems))
    write_bytes(folder / RECORD, data=dump(statement))
    write_report(document, folder)
    _write_for_ci(document, options)
    _print(document, collected, folder, options)
    exit_code: int = document["verdict"]["exit_code"]
    return exit_code


def _threads(milestones: Milestones, options: SignoffOptions) -> int:
    """Return the number of threads of each run."""
    if milestones.subject.evidence == "bundle":
        return 1  # it needs no torch
    return threads_of(options.threads, Where(options.workers))


def _write_for_ci(document: Mapping[str, Any], options: SignoffOptions) -> None:
    files: dict[Path, bytes] = {}
    if options.junit is not None:
        files[options.junit] = junit(document)
    if options.summary is not None:
        # GitHub gives every step one file, to which all of its commands append.
        before = options.summary.read_bytes() if options.summary.is_file() else b""
        files[options.summary] = before + KIND.formats["md"].make(document, Path())
    write_files(files)


def _print(document: Mapping[str, Any], collected: Collected, folder: Path, options: SignoffOptions) -> None:
    with view.printing() as console:
        if options.as_json:
            click.echo(json.dumps(document, allow_nan=False))
        else:
            _show(console, document, collected, folder)
    if options.annotations:
        say_annotations(document, as_json=options.as_json)


def _show(console: Console, document: Mapping[str, Any], collected: Collected, folder: Path) -> None:
    for milestone in document["milestones"]:
        console.print(_items(milestone))
    console.print(_milestones(document))
    for name, why in document["run"]["stale"].items():
        console.print(view.plain(f"not reused: {name}: {why}"), soft_wrap=True)
    if collected.reused:
        console.print(f"reused: {len(collected.reused)} of {len(collected.evidence)} pieces of evidence")
    subject = document["subject"]
    for change in subject["changes"]:
        console.print(view.plain(f"uncommitted: {change}"), soft_wrap=True)
    if subject["changes"]:
        console.print("`parity signoff verify` refuses this record, as its commit does not name its code")
    console.print(view.plain(f"commit {subject['commit']}; digest {document['digest']}"), soft_wrap=True)
    verdict = document["verdict"]
    console.print(_coloured(verdict["value"], verdict["label"]) + "  " + view.plain(verdict["reason"]), soft_wrap=True)
    console.print(view.plain(f"record: {folder / RECORD}"), soft_wrap=True)
    console.print(view.plain(f"report: {folder / 'report.html'}"), soft_wrap=True)


def _items(milestone: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=view.plain(milestone["title"]), title_justify="left")
    for name in ("required", "verdict", "worst ratio", "at", "compared"):
        right = name in ("worst ratio", "compared")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "verdict")
    for item in milestone["items"]:
        worst = item["worst"]
        failed = item["verdict"] != "PARITY"
        place = item["reason"] if failed or worst is None else worst["at"]
        table.add_row(
            view.plain(item["id"]),
            view.coloured(item["verdict"]) + (", waived" if item["waived"] else ""),
            "" if worst is None else f"{worst['ratio']:.3g}",
            view.plain(place),
            f"{item['compared']}/{item['expected']}",
        )
    return table


def _milestones(document: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("phase", "milestone", "verdict", "reason"):
        table.add_column(name, justify="right" if name == "phase" else "left")
    for milestone in document["milestones"]:
        less = f" ({milestone['requires_less']})" if milestone["requires_less"] else ""
        table.add_row(
            str(milestone["phase"]),
            view.plain(milestone["title"]),
            _coloured(milestone["verdict"], milestone["label"]),
            view.plain(milestone["reason"] + less),
        )
    return table


def _coloured(value: str, label: str) -> str:
    style = view.COLOURS[_COLOURS[value]]
    return f"[{style}]{view.plain(label)}[/{style}]"
