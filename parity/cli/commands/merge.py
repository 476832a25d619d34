"""``parity merge``: puts the shards of a suite or of a sign-off together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.registry import every_case
from parity.cases.standard import standard_suite
from parity.cli import console as view
from parity.cli.command import finish, here, say_annotations
from parity.cli.commands.signoff import conclude
from parity.cli.signoff_options import SignoffOptions
from parity.core.errors import ParityError
from parity.documents.folders import report_folder
from parity.documents.pictures import take_over
from parity.documents.suite import whole_document
from parity.milestones.collect import EVIDENCE, every_item, file_name
from parity.milestones.keys import HERE, code_digest
from parity.milestones.merge import merge_records, merge_suites
from parity.milestones.records import verify
from parity.milestones.records.record import RECORD, dump
from parity.milestones.suite import summary_of
from reports import document as documents
from reports.atomic import make_folder, write_bytes
from reports.staging import Staged
from reports.write import write_report


@dataclass(frozen=True)
class MergeOptions:
    """The options of ``parity merge``."""

    folders: tuple[Path, ...]
    out: Path | None
    milestones: Path | None
    junit: Path | None
    summary: Path | None
    annotations: bool
    as_json: bool


def merge(options: MergeOptions) -> int:
    """Run the command. Returns the exit code of the merged verdict."""
    signed = [folder for folder in options.folders if (folder / RECORD).is_file()]
    if signed and len(signed) < len(options.folders):
        other = next(folder for folder in options.folders if folder not in signed)
        raise ParityError(f"{signed[0]} has a sign-off and {other} has none; merge shards of one run")
    return _signoffs(options) if signed else _suites(options)


def _suites(options: MergeOptions) -> int:
    merged = merge_suites([(folder, _suite(folder)) for folder in options.folders], code=code_digest())
    cases = every_case()
    every = standard_suite()
    summaries = [summary_of(line, cases[line["name"]]) for line in merged.lines]
    made = whole_document(
        merged.lines,
        summaries,
        every,
        environment=here(threads=_suite(options.folders[0])["environment"]["threads"]),
        totals={"forwards": merged.forwards, "seconds": merged.seconds},
        made_with=merged.made_with,
        selected=merged.selected,
        shard=None,
        shards=merged.missing,
    )
    folder = report_folder(options.out, "suite")
    with Staged(folder) as staged:
        for line in merged.lines:
            if line["report"]:
                place = Path(line["report"]).parent
                shutil.copytree(merged.folders[line["name"]] / place, staged.work / place)
        write_report(made, staged.work)

    def show(console: Any) -> None:
        for table in view.suite_tables(made):
            console.print(table)
        console.print(view.verdict_line(made["verdict"]), soft_wrap=True)
        console.print(view.plain(f"report: {folder / 'report.html'}"), soft_wrap=True)

    code = finish(made, show, as_json=options.as_json)
    if options.annotations:
        say_annotations(made, as_json=options.as_json)
    return code


def _suite(folder: Path) -> dict[str, Any]:
    document = documents.load(folder / "report.json")
    if document["kind"] != "suite":
        raise ParityError(f"{folder} has a report of the kind {document['kind']}; merge suites or sign-offs")
    return dict(document)


def _signoffs(options: MergeOptions) -> int:
    records = [verify.read_record(folder / RECORD) for folder in options.folders]
    milestones = verify.milestones_of(records[0], HERE, options.milestones)
    collected, about, phases = merge_records(records, milestones, HERE)
    folder = report_folder(options.out, "signoff")
    make_folder(folder / EVIDENCE)
    for name, evidence in collected.evidence.items():
        write_bytes(folder / EVIDENCE / file_name(name), data=dump(evidence))
    _pictures(options.folders, folder, list(collected.evidence))
    missing = [item.id for item in every_item(milestones.chosen(phases)) if item.id not in collected.evidence]
    given = SignoffOptions(
        options.milestones, (), folder, None, options.junit, options.summary, options.as_json, None,
        annotations=options.annotations,
    )  # fmt: skip
    code = conclude(milestones, phases, collected, about, folder, given)
    if missing and not options.as_json:
        with view.printing() as console:
            console.print(view.plain(f"in no shard: {', '.join(missing)}"), soft_wrap=True)
    return code


def _pictures(folders: Sequence[Path], folder: Path, items: Sequence[str]) -> None:
    for earlier in folders:
        take_over(earlier, folder, [Path(file_name(name)).stem for name in items])
