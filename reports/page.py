"""A simple page, which most kinds of document share: a headline, some facts, and tables.

A kind prepares a ``Page`` with a pure function; ``simple_formats`` turns it into Markdown and HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports import formatting as fmt
from reports import html, markdown
from reports.kinds.base import Document, Format, standard_formats


@dataclass(frozen=True)
class Cell:
    """What a cell shows, the number that it sorts by, and the file of the report folder that it links to."""

    text: str
    value: float | None = None
    bad: bool = False
    link: str | None = None


@dataclass(frozen=True)
class Column:
    """``numeric`` columns are aligned to the right; ``code`` columns contain names."""

    title: str
    numeric: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; ``empty`` is shown when there are no rows.

    ``folded`` is what the page shows of it until a reader opens it; empty shows the table.
    """

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    lead: str = ""
    empty: str = "Nothing to show."
    folded: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure of the HTML page, drawn as inline SVG; the tables hold the same numbers. None: nothing to draw."""

    id: str
    title: str
    lead: str
    draw: Callable[[], str | None]


@dataclass(frozen=True)
class Page:
    """What a page shows in addition to the verdict, the environment and the findings of the document."""

    eyebrow: str
    title: str
    sentence: str = ""
    counts: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Drawing] = ()


def text(value: str | None) -> Cell:
    """A cell of text."""
    return Cell(fmt.visible(value))


def number(value: float | None, *, bad: bool = False) -> Cell:
    """A cell with a number."""
    return Cell(fmt.number(value), value, bad)


def times(value: float | None) -> Cell:
    """A cell with a ratio."""
    return Cell(fmt.ratio(value), value)


def seconds(value: float | None) -> Cell:
    """A cell with a duration."""
    return Cell(fmt.seconds(value), value)


def simple_formats(
    *, table: str, frame: Callable[[Document], pd.DataFrame], page: Callable[[Document], Page]
) -> dict[str, Format]:
    """The CSV, Markdown and HTML files of a kind that has a simple page."""

    def as_html(document: Document, _pictures: Path) -> str:
        found = html.findings_context(document) if "findings" in document else {}
        made = page(document)
        drawn = [(figure, html.inline(figure.draw())) for figure in made.figures]
        return html.page("simple.html.j2", **_context(document, made), drawn=drawn, **found)

    def as_markdown(document: Document) -> str:
        found = markdown.findings_context(document) if "findings" in document else {}
        return markdown.page("simple.md.j2", **_context(document, page(document)), **found)

    return standard_formats(table=table, frame=frame, markdown=as_markdown, html=as_html)


def _context(document: Document, page: Page) -> Mapping[str, Any]:
    """What the template of simple pages needs."""
    return {"doc": document, "page": page, "verdict": document.get("verdict")}
