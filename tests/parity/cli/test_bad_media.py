"""Pictures, videos and prompts that cannot be used, and unusual ones that can be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.parity.cli.samples import Parity, picture, snapshot, video


def _text(path: Path) -> None:
    path.write_text("no picture\n", encoding="utf-8")


def _cut_jpeg(path: Path) -> None:
    picture(path, (128, 96))
    os.truncate(path, path.stat().st_size // 2)


def _cut_video(path: Path) -> None:
    video(path, 6)
    os.truncate(path, path.stat().st_size // 2)


def _sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))


def _playlist(path: Path) -> None:
    video(path.with_name("other.mp4"), 6)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n", encoding="utf-8")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.png": (lambda path: None, "does not exist"),
    "text.png": (_text, "cannot be decoded"),
    "empty.png": (Path.touch, "empty (0 bytes)"),
    "cut.jpg": (_cut_jpeg, "truncated"),
    "folder.png": (Path.mkdir, "is a folder"),
    "bomb.png": (lambda path: Image.new("1", (20_000, 20_000)).save(path), "too large"),
    "flat.png": (lambda path: picture(path, (3000, 10)), "3000 x 10"),
    # PostScript under another name: Pillow would run Ghostscript on it.
    "drawing.png": (lambda path: path.write_bytes(EPS), "another program"),
    "pipe.png": (os.mkfifo, "not a regular file"),
    "narrow.png": (lambda path: picture(path, (1, 250)), "1 x 250"),
}
BAD_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "playlist.mp4": (_playlist, "cannot be decoded"),
    "pipe.mp4": (os.mkfifo, "not a regular file"),
    "missing.mp4": (lambda path: None, "does not exist"),
    "text.mp4": (_text, "cannot be decoded"),
    "empty.mp4": (Path.touch, "empty (0 bytes)"),
    "cut.mp4": (_cut_video, "cannot be decoded"),
    "folder.mp4": (Path.mkdir, "is a folder"),
    "sound.wav": (_sound, "no video stream"),
    "one.mp4": (lambda path: video(path, 1), "1 frame"),
    "wide.mp4": (lambda path: video(path, 4, (4000, 16)), "4000 x 16"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_cannot_be_used_is_named(name: str, run: Parity, work: Path, tmp_path: Path) -> None:
    make, words = BAD_PICTURES[name]
    make(tmp_path / name)
    run("--image", tmp_path / name).refuses(name, words)
    assert snapshot(work) == {}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_a_video_that_cannot_be_used_is_named(name: str, run: Parity, work: Path, tmp_path: Path) -> None:
    make, words = BAD_VIDEOS[name]
    make(tmp_path / name)
    run("--video", tmp_path / name).refuses(name, words)
    assert snapshot(work) == {}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", ("the prompt is empty",)),
        ("See <|image_pad|> here", ("row 0", "<|image_pad|>", "leave it out")),
        ("See <|video_pad|> here", ("row 0", "<|video_pad|>", "leave it out")),
        ("word " * 9000, ("max_position_embeddings", "8192", "shorten")),
        ("bytes \udcff", ("--prompt", "UTF-8")),
    ],
)
def test_a_prompt_that_cannot_be_used(prompt: str, words: tuple[str, ...], run: Parity, work: Path) -> None:
    run("--prompt", prompt).refuses(*words)
    assert snapshot(work) == {}


def test_a_prompt_that_does_not_fit_in_memory(run: Parity, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Little:
        available = 2**20

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    run("--prompt", "word " * 500).refuses("tokens", "GiB", "shorter prompt")


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L", "1", "CMYK", "I;16"])
def test_pictures_of_other_modes_are_read_without_a_word(mode: str, run: Parity, tmp_path: Path) -> None:
    path = tmp_path / ("other.jpg" if mode == "CMYK" else "other.png")
    if mode == "I;16":
        Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (64, 64), dtype=np.uint16)).save(path)
    elif mode == "P":
        # Transparency in bytes makes PIL warn.
        picture(path, mode="P")
        Image.open(path).save(path, transparency=bytes(range(100)))
    else:
        picture(path, mode=mode)
    run("--image", path, "--steps", 0).succeeds()


def test_a_single_pixel_is_a_picture(run: Parity, tmp_path: Path) -> None:
    run("--image", picture(tmp_path / "pixel.png", (1, 1)), "--prompt", "").succeeds()
