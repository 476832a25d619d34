"""Helpers for the tests of the command: a runner that captures both streams, and sample pictures and videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from click.testing import CliRunner
from PIL import Image

from parity.cli.main import main

QUICK = ("--no-timing", "--steps", "1")


@dataclass(frozen=True)
class Answer:
    """The result of a command: its exit code and both streams."""

    code: int
    stdout: str
    stderr: str

    def refuses(self, *words: str, code: int = 2) -> None:
        """Check that the message names the thing, is only on stderr, and is not the one for defects of the harness."""
        assert self.code == code, (self.code, self.stdout[-500:], self.stderr)
        for word in words:
            assert word in self.stderr, self.stderr
        assert "Traceback" not in self.stderr
        assert "defect of the harness" not in self.stderr
        assert self.stdout == ""

    def succeeds(self, code: int = 0) -> None:
        assert self.code == code, (self.code, self.stdout[-500:], self.stderr)
        assert self.stderr == ""


Parity = Callable[..., Answer]


def call(*arguments: object) -> Answer:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def picture(path: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Path:
    """Save a picture of noise in the format of the path's suffix."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """Save a video of noise as MPEG-4, with four frames per second."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            small = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(small.repeat(8, 0).repeat(8, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def change_json(path: Path, keys: Sequence[str | int], value: object) -> None:
    """Set a field of a JSON file. None removes it."""
    document = json.loads(path.read_text(encoding="utf-8"))
    holder = document
    for key in keys[:-1]:
        holder = holder[key]
    if value is None:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return all files and folders below a folder, also hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }
