"""What a subject promises to give: every seam, a coarse trace, the logits, or a list of its own.

A verdict says what was promised. Without a promise, every seam is expected, and what is missing makes it INCOMPLETE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.core.errors import ParityError
from parity.core.trace import SeamKey

FULL, COARSE, LOGITS = "full", "coarse", "logits"
_INPUTS = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw")
_LISTS: dict[str, tuple[str, ...]] = {
    LOGITS: (*_INPUTS, "logits"),
    COARSE: (
        *_INPUTS,
        "text.position_ids",
        "rope_delta",
        "text.embed_tokens",
        "vision.patch_embed",
        "vision.embed",
        "vision.blocks.{}.out",
        "vision.deepstack.{}",
        "vision.merger",
        "text.inputs_embeds",
        "text.layers.{}.out",
        "text.layers.{}.deepstack",
        "text.norm",
        "logits",
    ),
}
_MOST_BYTES = 2**20
_LINE = re.compile(r"[A-Za-z0-9_.{}*]{1,200}")


@dataclass(frozen=True)
class Promise:
    """A name for messages, and patterns of seam names: ``{}`` stands for a number, ``*`` for any text. None: all."""

    name: str
    patterns: Sequence[str] | None = None

    def keys(self, every: Iterable[SeamKey]) -> set[SeamKey]:
        """Return the promised ones of all values that a case has. Raises ParityError for a pattern that fits none."""
        known = list(every)
        if self.patterns is None:
            return set(known)
        found: set[SeamKey] = set()
        for pattern in self.patterns:
            compiled = _compiled(pattern)
            fitting = {key for key in known if compiled.fullmatch(key.name)}
            if not fitting and self.name not in _LISTS:
                raise ParityError(f"{self.name} names {pattern!r}, which is no seam of the case; see `parity seams`")
            found |= fitting
        return found


EVERYTHING = Promise(FULL)


def promise(word: str) -> Promise:
    """Return the promise of a word, or that of a file with one pattern on each line. Raises ParityError."""
    if word == FULL:
        return EVERYTHING
    if word in _LISTS:
        return Promise(word, _LISTS[word])
    path = Path(word)
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise ParityError(
                f"--expect is {word!r}; give full, coarse, logits, or a file of at most 1 MB with one seam on each line"
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParityError(f"{word} cannot be read: {error}") from None
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    bad = next((line for line in patterns if not _LINE.fullmatch(line)), None)
    if bad is not None or not patterns:
        raise ParityError(f"{word}: {bad!r} is no seam; write one name on each line, such as vision.blocks.{{}}.out")
    return Promise(word, patterns)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\{\}", r"\d+").replace(r"\*", r"[A-Za-z0-9_.]*"))
