"""A batch from one prompt: further rows differ in length, pictures and grids, and no two rows are the same."""

from __future__ import annotations

from parity.cases.case import Row
from parity.cases.media import Cropped, Source, is_picture


def batch_rows(row: Row, batch: int) -> tuple[Row, ...]:
    """Row 0 as it is; then in turn: the text alone, the media in reverse order and cropped, the first medium only.

    Every further row ends with its own number.
    """
    media = tuple(part for part in row if not isinstance(part, str))
    texts = tuple(part for part in row if isinstance(part, str))
    text = texts or ("Describe this.",)
    cropped: tuple[Source, ...] = tuple(Cropped(part) if is_picture(part) else part for part in reversed(media))
    variants: tuple[Row, ...] = (row, text, (*cropped, *text, "Be brief."), (*text, *media[:1]))
    further = tuple((*variants[index % len(variants)], f"Row {index}.") for index in range(1, batch))
    return (row, *further)
