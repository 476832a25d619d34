"""A batch of prompts with their pictures and videos as files. Every processor starts from these files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
    if isinstance(part, PicturePath):
        return {"type": "image", "image": _picture(part)}
    rate = {} if part.fps is None else {"fps": part.fps}
    return {"type": "video", "video": _video(part), **rate}


def _picture(part: PicturePath) -> Any:
    """The picture in the form in which a port gets it."""
    match part.given:
        case "path":
            return part.path
        case "text":
            return str(part.path)
        case "bytes":
            return part.path.read_bytes()
        case "pillow":
            return Image.open(part.path)
        case "array" | "grey array":
            # A picture that is grey has the same three channels as the array of one.
            return np.asarray(Image.open(part.path).convert("L" if part.given == "grey array" else "RGB"))


def _video(part: VideoPath) -> Any:
    """The video in the form in which a port gets it."""
    if part.given in ("path", "text"):
        return part.path if part.given == "path" else str(part.path)
    pictures = [part.path / f"frame-{number}.png" for number in range(len(list(part.path.iterdir())))]
    if part.given == "pictures":
        return pictures
    return np.stack([np.asarray(Image.open(path)) for path in pictures])
