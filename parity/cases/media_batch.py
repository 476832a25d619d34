"""A batch of prompts with their pictures and videos as files. Every processor starts from these files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.case import Padding
from parity.cases.files import as_file
from parity.cases.media import Source
from reference.media import ONE_TURN, PicturePath, Prompting, VideoPath, conversation


@dataclass(frozen=True)
class MediaBatch:
    """Conversations with texts and files. ``spool`` is the temporary folder of the files that were written."""

    rows: Sequence[Sequence[str | PicturePath | VideoPath]]
    padding_side: Padding
    spool: tempfile.TemporaryDirectory[str]
    prompting: Prompting = ONE_TURN

    @property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """The rows as conversations, as the port's and Hugging Face's processors take them."""
        return [conversation(row, _content) for row in self.rows]

    def count(self, kind: type) -> int:
        """Return the number of pictures (PicturePath) or videos (VideoPath) in all rows."""
        return sum(isinstance(part, kind) for row in self.rows for part in row)


def write_media_batch(
    rows: Sequence[Sequence[Source]], padding_side: Padding, prompting: Prompting = ONE_TURN
) -> MediaBatch:
    """Write every picture and clip to a file, unless it is one already."""
    spool = tempfile.TemporaryDirectory(prefix="parity-media-")
    folder = Path(spool.name)
    named = [[as_file(part, folder, f"{at}-{place}") for place, part in enumerate(row)] for at, row in enumerate(rows)]
    return MediaBatch(named, padding_side, spool, prompting)


def _content(part: str | PicturePath | VideoPath) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = "image" if isinstance(part, PicturePath) else "video"
    return {"type": kind, kind: part.path}
