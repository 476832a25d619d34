"""One jinja2 environment for all templates. It escapes HTML, and unknown names are errors."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reports import formatting as fmt

TEMPLATES = Path(__file__).parent / "templates"
_MARKDOWN = re.compile(r"([\\`*_\[\]~|#$])")


@cache
def environment() -> Environment:
    """The shared environment with the filters that the templates use."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Every text of the document passes here, with or without a filter of its own.
        finalize=lambda value: fmt.visible(value) if type(value) is str else value,
    )
    made.filters |= {
        "num": fmt.number,
        "times": fmt.ratio,
        "shape": fmt.shape,
        "seconds": fmt.seconds,
        "measure": fmt.measure,
        "bytes": fmt.size,
        "visible": fmt.visible,
        "words": fmt.words,
        "plural": fmt.plural,
        "percent": fmt.percent,
        "glyph": lambda status: fmt.GLYPHS[status],
        "bar": bar,
        "md": markdown_text,
        "mdcode": markdown_code,
        "breakable": breakable,
        "mdblock": markdown_block,
        "href": href,
    }
    return made


def bar(value: float | None) -> float:
    """Width of a ratio's bar in percent: the gate at the middle, two decades to either side."""
    if not value:
        return 0.0
    return round(min(100.0, max(2.0, 50 + 25 * math.log10(value))), 1)


def breakable(name: str) -> Markup:
    """A dotted name that a narrow column may break after its dots."""
    return Markup(".<wbr>").join(fmt.visible(name).split("."))


def href(path: str) -> str:
    """A relative path as a link; ':' is quoted as well, so that the path cannot become a URL with a scheme."""
    return quote(path.replace("\\", "/"))


def markdown_text(value: object) -> Markup:
    """Text for a paragraph or a table cell: on one line, no markup of its own, no HTML."""
    text = fmt.visible(str(value)).replace("\t", " ")
    text = " ".join(text.split("\n"))
    return Markup(_MARKDOWN.sub(r"\\\1", str(escape(text)).replace("&#39;", "'").replace("&#34;", '"')))


def markdown_code(value: object) -> Markup:
    """An inline code span that its own text cannot close."""
    text = fmt.visible(str(value)).replace("\n", " ").replace("\t", " ")
    # In a table even a code span must escape its pipes; GitHub shows them without the backslash.
    text = text.replace("|", r"\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return Markup(f"{fence}{pad}{text}{pad}{fence}") if text.strip() else Markup("(empty)")


def markdown_block(value: object) -> Markup:
    """A fenced code block that its own text cannot close."""
    text = fmt.visible(str(value))
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}text\n{text}\n{fence}")
