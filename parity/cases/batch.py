"""Makes a batch from one prompt. The rows differ in length, pictures and grids; no two are the same."""

from __future__ import annotations

from parity.cases.case import Row
from parity.cases.media import Cropped, Source, is_picture


def batch_rows(row: Row, batch: int) -> tuple[Row, ...]:
    """Return ``batch`` rows; row 0 is unchanged.

    The others repeat four variants: only the text; the media in reverse order, pictures cropped; the text and then the
    first medium; the row itself. Each ends with its own number.
    """
    media = tuple(part for part in row if not isinstance(part, str))
    texts = tuple(part for part in row if isinstance(part, str))
    text = texts or ("Describe this.",)
    cropped: tuple[Source, ...] = tuple(Cropped(part) if is_picture(part) else part for part in reversed(media))
    variants: tuple[Row, ...] = (row, text, (*cropped, *text, "Be brief."), (*text, *media[:1]))
    further = tuple((*variants[index % len(variants)], f"Row {index}.") for index in range(1, batch))
    return (row, *further)
