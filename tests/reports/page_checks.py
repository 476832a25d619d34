"""Helpers to check a report's page: its tags, and a document as HTML and Markdown."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from reports.kinds import KINDS

Document = dict[str, Any]
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def html(sample: Document, *, pictures: Path) -> str:
    return KINDS[sample["kind"]].formats["html"].make(sample, pictures).decode()


def markdown(sample: Document) -> str:
    return KINDS[sample["kind"]].formats["md"].make(sample, Path()).decode()


class Page(HTMLParser):
    """Checks that tags are nested correctly, and collects data for the tests."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]
