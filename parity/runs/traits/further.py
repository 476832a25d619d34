"""Traits of a case's requests, conversations, forms and settings: what mistakes of memory and of limits may need."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence

from parity.cases.case import Case, Row, SeededCheckpoint
from parity.cases.media import Changed, Encoded, FrameFolder, GivenFrames, GivenPicture, is_picture
from parity.runs.stages.processor_stage import ProcessorSettings
from reference.media import Turn

# Pixels of a picture, at least and at most, in a port that ignores the config's limits: mistral.rs at a246cab0c.
_OTHER_LIMITS = 256 * 256, 1536 * 1536


def request_traits(case: Case) -> Iterator[str]:
    """Give the traits of the requests before a case: in what they agree with it, and in what they differ."""
    if any(_turned(other.rows, case.rows) for other in case.before):
        yield "turned request"
    if any(len(case.rows) > 1 and _exchanged(other.rows, case.rows) for other in case.before):
        yield "rows exchanged"
    changed = [
        {part.how for row in other.rows for part in row if isinstance(part, Changed)}
        for other in case.before
        if other.fault is None
    ]
    if any(changed):
        yield "request equal in part"
    if {"mirrored"} in changed:
        yield "mirrored request"
    if case.before and case.before[-1].fault is not None:
        yield "failed last"


def case_traits(case: Case) -> Iterator[str]:
    """Give the traits of a case's checkpoint, conversations and media."""
    if isinstance(case.checkpoint, SeededCheckpoint):
        yield from (f"set {field.rpartition('.')[2]}" for _, field, _ in case.checkpoint.edits)
        yield from (f"stored as {name}" for name in case.checkpoint.rewrites)
        if {"tools-in-json", "tools-in-jinja"} & set(case.checkpoint.rewrites):
            yield "two templates"
    parts = [part for row in case.rows for part in row]
    turns = [part for part in parts if isinstance(part, Turn)]
    found = {
        "system": any(turn.role == "system" for turn in turns),
        "padded turns": any(turn != turn.strip() for turn in turns),
        "reasoning": any("thinking" in turn.extra or '"reasoning"' in turn.extra for turn in turns),
        "no answer begun": not case.prompting.generation_prompt,
        "variables": bool(case.prompting.variables),
        "tools": bool(case.prompting.tools),
        "accents": any(unicodedata.normalize("NFKC", part) != part != _composed(part) for part in _texts(parts)),
        "folder": any(isinstance(part, FrameFolder) and part.clip.frames > 10 for part in parts),
        "given rate": any(isinstance(part, GivenFrames) and part.fps is not None for part in parts),
        "grey array": any(isinstance(part, GivenPicture) and part.form == "grey array" for part in parts),
        "huge": case.grids_only,
    }
    yield from (name for name, there in found.items() if there)
    forms = {part.form for part in parts if isinstance(part, Encoded)}
    yield from forms & {"animated", "bilevel"}
    if forms & {"exif-2", "exif-4", "exif-5", "exif-7"}:
        yield "mirrored orientation"


def size_traits(
    settings: ProcessorSettings,
    pictures: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    videos: Sequence[tuple[int, tuple[int, int]]],
) -> Iterator[str]:
    """Give the traits of sizes: (height, width) of pictures before and after the resize; frames and size of videos."""
    factor, patch = settings.patch * settings.merge, settings.temporal_patch
    if any(after[0] * after[1] == settings.most == _rounded(before, factor) for before, after in pictures):
        yield "picture at the limit"
    if any(not _OTHER_LIMITS[0] <= math.prod(after) <= _OTHER_LIMITS[1] for _, after in pictures):
        yield "outside other limits"
    if settings.least > 4096 and any(_rounded(before, factor) < settings.least for before, _ in pictures):
        yield "released limits"
    if any(_grows_unevenly(before, settings.least, factor) for before, _ in pictures):
        yield "grown unevenly"
    for frames, size in videos:
        area = _rounded(size, factor)
        down, up = round(frames / patch) * patch * area, math.ceil(frames / patch) * patch * area
        if down <= settings.most_of_video < up:
            yield "frames decide the size"


def _grows_unevenly(size: tuple[int, int], least: int, factor: int) -> bool:
    """Whether a picture grows, and the next larger multiples are not the nearest ones."""
    if _rounded(size, factor) >= least:
        return False
    scale = math.sqrt(least / (size[0] * size[1])) / factor
    return any(round(side * scale) not in (0, math.ceil(side * scale)) for side in size)


def _rounded(size: tuple[int, int], factor: int) -> int:
    return round(size[0] / factor) * factor * round(size[1] / factor) * factor


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _texts(parts: Sequence[object]) -> list[str]:
    return [part for part in parts if isinstance(part, str)]


def _turned(other: Sequence[Row], own: Sequence[Row]) -> bool:
    """Whether the texts are the same, and every picture has its sides exchanged."""
    if list(map(_texts, other)) != list(map(_texts, own)):
        return False
    theirs, mine = _picture_sizes(other), _picture_sizes(own)
    return bool(mine) and [size[::-1] for size in theirs] == mine != theirs


def _picture_sizes(rows: Sequence[Row]) -> list[tuple[int, int]]:
    return [part.load().size for row in rows for part in row if is_picture(part)]


def _exchanged(other: Sequence[Row], own: Sequence[Row]) -> bool:
    return tuple(other) != tuple(own) and sorted(map(repr, other)) == sorted(map(repr, own))
