"""``parity diagnose``: names the known mistakes that explain what an engine gave. Needs torch, not transformers."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.judging import Selection
from parity.bundles.layouts.layout import Layout
from parity.bundles.tokens.asking import as_lines, ask
from parity.bundles.tokens.blackbox import JudgedTokens, case_of, judge_tokens, read_steps
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.commands.engine import engine_of
from parity.cli.progress import progress_bar
from parity.core.errors import ParityError
from parity.diagnosis.diagnose import Diagnosed, diagnose, diagnose_tokens, evidence_of, runs_of
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.power import Power, power
from parity.diagnosis.telling_apart import NextInput, tell_apart
from parity.documents.diagnosis import diagnosis_document
from parity.seams.promise import FULL, promise


@dataclass(frozen=True)
class DiagnoseOptions:
    """The options of ``parity diagnose``."""

    bundle: Path
    subject: Path | None
    tokens: tuple[Path, ...]
    cases: tuple[str, ...]
    stages: tuple[str, ...]
    dtype: str | None
    checkpoints: tuple[Path, ...]
    sha256: str | None
    expect: str
    layout: Path | None
    out: Path | None
    threads: int | None
    as_json: bool
    power: bool = False
    ask: str | None = None
    url: str | None = None


def diagnose_subject(options: DiagnoseOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.power and options.tokens:
        raise ParityError("--power is for traces; of tokens, the margins in the report say how little they prove")
    bundle = Bundle(options.bundle, sha256=options.sha256)
    layout = None if options.layout is None else Layout(options.layout)
    start = time.perf_counter()
    with progress_bar(2 * len(bundle.cases), quiet=options.as_json) as step:
        inputs: list[NextInput] = []
        if options.tokens:
            found, inputs, options = _of_tokens(bundle, options)
        elif options.subject is not None:
            selection = Selection(options.cases, options.stages, options.dtype, promise(options.expect), layout)
            found = diagnose(bundle, options.subject, selection, checkpoints=options.checkpoints, progress=step)
        else:
            raise ParityError("name the SUBJECT's traces, or its tokens with --tokens")
    document = diagnosis_document(
        bundle,
        found,
        subject=", ".join(map(str, options.tokens)) or str(options.subject),
        hypotheses=len(HYPOTHESES),
        command=shlex.join(["parity", "diagnose", str(options.bundle), *_words(options)]),
        environment=here(threads=torch.get_num_threads()),
        seconds=round(time.perf_counter() - start, 2),
        power=_power(bundle, options, found) if options.power else [],
        inputs=inputs,
    )
    return finish(document, lambda console: _show(console, document), as_json=options.as_json, out=options.out)


def _power(bundle: Bundle, options: DiagnoseOptions, found: Sequence[Diagnosed]) -> list[Power]:
    measured = []
    for item in found:
        evidence = evidence_of(item.judged)
        if evidence is not None:
            runs = runs_of(bundle, item.judged, options.checkpoints)
            given = set(evidence.before)
            measured.append(power(runs, item.judged.stage, given, evidence.reference, evidence.floors))
    return measured


def _words(options: DiagnoseOptions) -> list[str]:
    """Return the options that decide what is judged, as a command names them."""
    words = [str(options.subject)] if options.subject is not None else []
    given = {
        "--tokens": options.tokens,
        "--case": options.cases,
        "--stage": options.stages,
        "--dtype": [options.dtype],
        "--expect": [options.expect] if options.expect != FULL else [],
        "--layout": [options.layout],
        "--checkpoint": options.checkpoints,
    }
    return words + [
        word for name, values in given.items() for value in values if value is not None for word in (name, str(value))
    ]


def _of_tokens(bundle: Bundle, options: DiagnoseOptions) -> tuple[list[Diagnosed], list[NextInput], DiagnoseOptions]:
    """Diagnose tokens. Returns the options with the files of what was asked, which give the same result again."""
    if options.subject is not None:
        raise ParityError("give either the SUBJECT's traces or --tokens")
    if options.cases and len(options.cases) != len(options.tokens):
        raise ParityError(
            f"--tokens is given {len(options.tokens)} times, --case {len(options.cases)} times; name the case of each "
            "file in the same order, or none if the files name their cases"
        )
    # Before anything runs: the engine is named rightly.
    engine = None if options.ask is None else engine_of(options.ask, options.url)
    cases: list[tuple[str, ...]] = [(name,) for name in options.cases] or [()] * len(options.tokens)
    judged = [_judged(bundle, options, path, names) for path, names in zip(options.tokens, cases, strict=True)]
    found = diagnose_tokens(bundle, judged, checkpoints=options.checkpoints)

    asked: list[tuple[Path, str]] = []

    def answer(case: BundleCase, checkpoint: Path) -> JudgedTokens:
        assert engine is not None
        first = options.tokens[0]
        path = first.with_name(f"{first.stem}-{case.name}{first.suffix}")
        if path.exists():
            raise ParityError(f"{path} exists already; give it with --tokens, or remove it")
        path.write_text(as_lines(ask(engine, case, checkpoint), engine.title, case.name), encoding="utf-8")
        asked.append((path, case.name))
        return _judged(bundle, options, path, (case.name,))

    diagnoses, inputs = tell_apart(
        bundle, found, checkpoints=options.checkpoints, ask=None if engine is None else answer
    )
    tokens = (*options.tokens, *(path for path, _ in asked))
    named = (*options.cases, *(name for _, name in asked)) if options.cases else ()
    return diagnoses, inputs, replace(options, tokens=tokens, cases=named)


def _judged(bundle: Bundle, options: DiagnoseOptions, path: Path, names: Sequence[str]) -> JudgedTokens:
    steps = read_steps(path)
    case = case_of(bundle, steps, names)
    return judge_tokens(case, steps, options.dtype or case.dtypes[0])


def _show(console: Console, document: dict[str, Any]) -> None:
    lines = [
        (trace, cause, one)
        for trace in document["traces"]
        for cause, group in (("cause", trace["explanations"]), ("nearest", [trace["nearest"]]))
        for one in group
        if one is not None
    ]
    if lines:
        console.print(_table(lines))
    for one in (*document["power"], *document["next_inputs"]):
        console.print(view.plain(one["text"]), soft_wrap=True)
    if _alike(document):
        console.print(
            "No other case of the bundle tells these mistakes apart; make a bundle with more cases", soft_wrap=True
        )
    totals = document["totals"]
    console.print(view.plain(document["conclusion"]["text"]), soft_wrap=True)
    console.print(
        f"{totals['runs_begun']} runs begun, {totals['runs']:.1f} whole runs of the port in all, {totals['passes']} "
        f"forward passes, {totals['seconds']:.1f} s"
    )
    if document["conclusion"]["status"] != "nothing":
        console.print(view.plain(f"\nFor a bug report:\n{document['bug_report']}\n"), soft_wrap=True)
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)


def _alike(document: dict[str, Any]) -> bool:
    """Whether the tokens of a case leave several mistakes, and no input was found that tells them apart."""
    several = any(
        len(trace["explanations"]) > 1 and trace["subject"]["detail"] == "tokens" for trace in document["traces"]
    )
    return several and not document["next_inputs"]


def _table(lines: list[tuple[dict[str, Any], str, dict[str, Any]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "role", "mistake", "what it is", "who made it", "before", "after", "rows explained"):
        right = name in ("before", "after", "rows explained")
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("role", "before", "after"))
    for trace, role, one in lines:
        table.add_row(
            view.plain(trace["case"]),
            role,
            "\n".join(mistake["id"] for mistake in one["mistakes"]),
            "\n".join(mistake["title"] for mistake in one["mistakes"]),
            "\n".join(mistake["source"] for mistake in one["mistakes"]),
            _number(one["figure_before"]),
            _number(one["figure_after"]),
            f"{one['rows_explained']} of {one['rows_failed']}",
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
