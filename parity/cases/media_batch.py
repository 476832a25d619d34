"""A batch of prompts with their pictures and videos as files, from which every processor starts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.case import Padding
from parity.cases.files import as_file
from parity.cases.media import Source
from reference.media import PicturePath, VideoPath


@dataclass(frozen=True)
class MediaBatch:
    """One user turn per row: texts, and files of pictures and videos. ``spool`` holds the files that were written."""

    rows: Sequence[Sequence[str | PicturePath | VideoPath]]
    padding_side: Padding
    spool: tempfile.TemporaryDirectory[str]

    @property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """As the port's processor, and Hugging Face's, take them."""
        return [[{"role": "user", "content": [_content(part) for part in row]}] for row in self.rows]

    def count(self, kind: type) -> int:
        """How many pictures (PicturePath) or videos (VideoPath) there are in all rows."""
        return sum(isinstance(part, kind) for row in self.rows for part in row)


def write_media_batch(rows: Sequence[Sequence[Source]], padding_side: Padding) -> MediaBatch:
    """Bring every picture and clip into a file."""
    spool = tempfile.TemporaryDirectory(prefix="parity-media-")
    folder = Path(spool.name)
    named = [[as_file(part, folder, f"{at}-{place}") for place, part in enumerate(row)] for at, row in enumerate(rows)]
    return MediaBatch(named, padding_side, spool)


def _content(part: str | PicturePath | VideoPath) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image" if isinstance(part, PicturePath) else "video"
    return {"type": kind, kind: part.path}
