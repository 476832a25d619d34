"""``parity judge``: judges an engine's traces by a golden bundle. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from parity.bundles.bundle import Bundle
from parity.bundles.judging import Judged, Selection, judge_folder
from parity.bundles.layouts.layout import Layout
from parity.bundles.tokens.blackbox import case_of, judge_tokens, read_steps
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.offers import offered
from parity.core.errors import ParityError
from parity.documents.blackbox import blackbox_document
from parity.documents.judgement import judgement_document, report_place, trace_document
from parity.seams.promise import promise


@dataclass(frozen=True)
class JudgeOptions:
    """The options of ``parity judge``."""

    bundle: Path
    subject: Path | None
    tokens: Path | None
    cases: tuple[str, ...]
    stages: tuple[str, ...]
    dtype: str | None
    sha256: str | None
    expect: str
    layout: Path | None
    out: Path | None
    as_json: bool
    every: bool

    @property
    def selection(self) -> Selection:
        """What is judged. Raises ParityError for an unknown promise or a layout that cannot be read."""
        layout = None if self.layout is None else Layout(self.layout)
        return Selection(self.cases, self.stages, self.dtype, promise(self.expect), layout)


def judge_subject(options: JudgeOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    if options.tokens is not None:
        return _judge_tokens(options, options.tokens)
    if options.subject is None:
        raise ParityError("name the SUBJECT's traces, or its tokens with --tokens")
    selection = options.selection
    bundle = Bundle(options.bundle, sha256=options.sha256)
    results = judge_folder(bundle, options.subject, selection)
    environment = here(threads=1)
    document = judgement_document(bundle, results, pinned=options.sha256 is not None, environment=environment)
    if options.out is not None:
        _write(options.out, bundle, results, document)
    return finish(document, lambda console: _show(console, document, options), as_json=options.as_json)


def _judge_tokens(options: JudgeOptions, tokens: Path) -> int:
    if options.subject is not None:
        raise ParityError("give either the SUBJECT's traces or --tokens")
    bundle = Bundle(options.bundle, sha256=options.sha256)
    steps = read_steps(tokens)
    case = case_of(bundle, steps, options.cases)
    found = judge_tokens(case, steps, options.dtype or case.dtypes[0])
    document = blackbox_document(bundle, found, subject=f"{found.engine}, {tokens}", environment=here(threads=1))

    def show(console: Console) -> None:
        console.print(view.verdict_line(document["verdict"]), soft_wrap=True)
        if document["verdict"]["value"] == "DIVERGED":
            words = ["parity", "diagnose", str(options.bundle), "--tokens", str(tokens), "--case", case.name]
            console.print(view.plain(offered(words)), soft_wrap=True)

    return finish(document, show, as_json=options.as_json, out=options.out)


def _write(out: Path, bundle: Bundle, results: list[Judged], document: dict[str, Any]) -> None:
    from reports.staging import Staged  # imports pandas and matplotlib
    from reports.write import write_report

    with Staged(out) as staged:
        for result in results:
            own = trace_document(result, bundle, environment=document["environment"])
            if own is not None:
                write_report(own, staged.work / report_place(result))
        write_report(document, staged.work)


def _show(console: Console, document: dict[str, Any], options: JudgeOptions) -> None:
    cases = document["cases"]
    if len(cases) == 1:
        findings, first = cases[0]["findings"], cases[0]["verdict"]["first_divergence"]
        console.print(view.findings_table(findings, first=first, every=options.every))
    else:
        console.print(_table(cases))
    console.print(view.plain(f"bundle {document['bundle']['sha256']}"), soft_wrap=True)
    if not document["bundle"]["pinned"]:
        console.print("compare this digest with the one that the bundle's maker published, or give it with --sha256")
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)
    if document["verdict"]["value"] == "DIVERGED":
        words = ["parity", "diagnose", str(options.bundle), str(options.subject)]
        console.print(view.plain(offered(words)), soft_wrap=True)
    if options.out is not None:
        click.echo(f"report: {options.out / 'report.html'}")


def _table(cases: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "stage", "dtype", "verdict", "seams", "rows", "reason"):
        table.add_column(name, justify="right" if name in ("seams", "rows") else "left", no_wrap=name != "reason")
    for case in cases:
        verdict = case["verdict"]
        table.add_row(
            view.plain(case["name"]),
            case["stage"],
            view.plain(case["subject"]["dtype"] if case["subject"] else ""),
            view.coloured(verdict["value"]),
            f"{verdict['seams_compared']}/{verdict['seams_expected']}",
            str(verdict["rows_compared"]),
            view.plain(verdict["reason"]),
        )
    return table
