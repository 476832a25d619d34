"""Prints tables and verdicts on the terminal, or plain text if the output is not a terminal."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLOURS = {"PARITY": "bold green", "DIVERGED": "bold red", "INCOMPLETE": "bold yellow", "INVALID": "bold magenta"}
_PLAIN_WIDTH = 160
_LISTED = 10  # missing seams that are listed one by one


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error again. rich would exit with code 1, which means DIVERGED here."""
        raise


def make_console(*, stderr: bool = False) -> Console:
    """Make a console. Output to a file or a pipe is not wrapped at 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(stderr=stderr, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False, emoji=False)


@contextmanager
def printing() -> Iterator[Console]:
    """Give a console for results. If the reader closes the pipe (``| head -1``), the exit code stays the same."""
    try:
        yield make_console()
        sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise the buffered text would raise again when Python ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(text: str) -> str:
    """Escape text for rich. A path or name may contain markup, or characters that control the terminal."""
    return escape(harmless(text))


def harmless(text: str) -> str:
    """Replace characters that control the terminal. Names in files from others may contain them."""
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)


def findings_table(findings: Sequence[Mapping[str, Any]], *, first: int | None, every: bool) -> Table:
    """Make the table of findings, in order. A block or layer that passed is one line, unless ``every`` is set."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("seam", "left"),
        ("step", "left"),
        ("shape", "left"),
        ("worst row", "left"),
        ("figure", "right"),
        ("gate", "right"),
        ("status", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name != "worst row")  # type: ignore[arg-type]
    absent = [finding for finding in findings if finding["status"] == "missing"]
    if len(absent) > _LISTED and not every:
        findings = [finding for finding in findings if finding["status"] != "missing"]
    else:
        absent = []
    for group in _groups(findings, every=every):
        if len(group) > 1:
            table.add_row(*map(plain, _group_cells(group)))
        else:
            failing = group[0]["status"] != "ok"
            mark = "> " if group[0]["index"] == first else ""
            table.add_row(*map(plain, _cells(group[0], mark)), style="red" if failing else None)
    if absent:
        names = f"{absent[0]['seam']} to {absent[-1]['seam']}"
        table.add_row(*map(plain, (names, "", "", f"{len(absent)} seams were not given", "", "", "missing")))
    return table


def _groups(findings: Sequence[Mapping[str, Any]], *, every: bool) -> Iterator[list[Mapping[str, Any]]]:
    if every:
        yield from ([finding] for finding in findings)
        return
    for _, members in groupby(findings, key=lambda finding: (_part(finding["seam"]), finding["step"])):
        group = list(members)
        if all(finding["status"] == "ok" for finding in group):
            yield group
        else:
            yield from ([finding] for finding in group)


def _part(seam: str) -> str:
    """Return a seam's block or layer: vision.blocks.3.attn.qkv -> vision.blocks.3; text.norm -> text.norm."""
    pieces = seam.split(".")
    numbered = next((i for i, piece in enumerate(pieces) if piece.isdigit()), None)
    return seam if numbered is None else ".".join(pieces[: numbered + 1])


def _cells(finding: Mapping[str, Any], mark: str) -> list[str]:
    return [
        mark + finding["seam"],
        finding["step"],
        "x".join(map(str, finding["shape"])),
        finding["worst_row"] or finding["note"] or "",
        figure(finding),
        _gate(finding),
        finding["status"],
    ]


def _group_cells(group: Sequence[Mapping[str, Any]]) -> list[str]:
    worst = max(group, key=lambda finding: finding["ratio"] or 0.0)
    cells = _cells(worst, "")
    last = worst["seam"].removeprefix(_part(worst["seam"])).lstrip(".")
    return [f"{_part(worst['seam'])} ({len(group)} seams)", *cells[1:3], f"{last}: {cells[3]}", *cells[4:]]


def _gate(finding: Mapping[str, Any]) -> str:
    if finding["gate_kind"] == "steps" and finding["gate"] is not None:
        return f"{finding['gate']:g} step"
    return "exact" if finding["gate_kind"] == "exact" else _short(finding["gate"])


def figure(finding: Mapping[str, Any]) -> str:
    """Return the figure as text: an error (float gates), a count (exact), or steps and the share of exact numbers."""
    if finding["gate_kind"] == "exact":
        count = finding["mismatches"]
        return "" if count is None else f"{count} differ" if count else "equal"
    if finding["gate_kind"] == "steps" and finding["figure"] is not None:
        share = finding["exact_share"] or 0.0
        return "equal" if share == 1 else f"{finding['figure']:.3g} steps, {100 * share:.4g} % exact"
    return _short(finding["figure"])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def cost_line(cost: Mapping[str, Any]) -> str:
    """Return the time to the verdict, beside the forwards that it needs."""
    text = f"time to verdict {cost['seconds']:.3g} s"
    forwards = cost["forwards"]
    if forwards is not None:
        text += (
            f", {cost['ratio']:.3g} times its {forwards['count']} forwards in {forwards['passes']} passes "
            f"({forwards['seconds']:.3g} s alone)"
        )
    return text


def performance_table(performance: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("timing (median)", "subject", "reference", "ratio", "subject rate", "peak memory s / r"):
        table.add_column(name, justify="left" if name.startswith("timing") else "right", no_wrap=True)
    for row in performance["rows"]:
        rate = row["per_second"]
        table.add_row(
            row["what"],
            f"{row['subject']['median'] * 1e3:.1f} ms",
            f"{row['reference']['median'] * 1e3:.1f} ms",
            f"{row['ratio']:.2f}",
            f"{rate['subject']:.0f} {rate['unit']}",
            f"{_mib(row['subject']['peak_bytes'])} / {_mib(row['reference']['peak_bytes'])} MiB",
        )
    return table


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


def suite_tables(document: Mapping[str, Any]) -> Iterable[Table]:
    cases = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "phase", "verdict", "seams", "rows", "worst ratio", "at"):
        right = name in ("phase", "seams", "rows", "worst ratio")
        cases.add_column(name, justify="right" if right else "left", no_wrap=name != "at")
    for case in document["cases"]:
        first, worst = case["first_divergence"], case["worst"]
        passed = case["verdict"] == "PARITY"
        place = "" if worst is None else f"{worst['seam']} ({worst['step']})"
        if not passed:
            place = f"{first['seam']} ({first['step']})" if first else case["reason"]
        cases.add_row(
            case["name"],
            str(case["phase"]),
            coloured(case["verdict"]),
            f"{case['seams_compared']}/{case['seams_expected']}",
            str(case["rows_compared"]),
            "" if worst is None else f"{worst['ratio']:.3g}",
            plain(place),
        )
    phases = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("phase", "title", "verdict", "cases run", "reason"):
        phases.add_column(name, justify="right" if name in ("phase", "cases run") else "left")
    for phase in document["phases"]:
        phases.add_row(
            str(phase["phase"]),
            phase["title"],
            coloured(phase["verdict"]),
            f"{phase['ran']}/{phase['cases']}",
            plain(phase["reason"]),
        )
    return cases, phases


def show_kept(console: Console, reused: Sequence[str], stale: Mapping[str, str], *, of: int, what: str) -> None:
    """Say what was taken from an earlier run, and why other things were not."""
    for name, why in stale.items():
        console.print(plain(f"not reused: {name}: {why}"), soft_wrap=True)
    if reused:
        console.print(f"reused: {len(reused)} of {of} {what}, finished before; --fresh runs them again")


def coloured(verdict: str) -> str:
    style = COLOURS[verdict]
    return f"[{style}]{verdict}[/{style}]"


def verdict_line(verdict: Mapping[str, Any]) -> str:
    return f"{coloured(verdict['value'])}  {plain(verdict['reason'])}"
