"""Conversations and media that a processor must refuse."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from parity.engines.refusals.base import Bad, Things
from port import Limits
from port.picture import load_picture
from port.processor import Processor
from port.resize import smart_resize
from port.template import ChatTemplate
from port.video import load_video, sample_frames


def _turns(*turns: Any) -> Any:
    return lambda things: things.processor([list(turns)])


def _ask(things: Things, conversations: Any) -> object:
    return things.processor(conversations)


def _part(part: Any) -> Any:
    return lambda things: things.asked(part)


def _file(things: Things, name: str, content: bytes) -> Path:
    path = things.scratch / name
    path.write_bytes(content)
    return path


def _pipe(things: Things) -> Path:
    path = things.scratch / "pipe.png"
    if not path.exists():
        os.mkfifo(path)
    return path


def _folder(things: Things, name: str, *sizes: tuple[int, int]) -> Path:
    """A folder of frames with these sizes."""
    path = things.scratch / name
    path.mkdir(exist_ok=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(path / f"{number}.png")
    return path


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def _with_template(things: Things, text: str, **limits: Any) -> Processor:
    own = things.processor
    template = ChatTemplate(text, "a test", Limits(**limits))
    return Processor(own.tokenizer, template, own.picture, own.video, limits=Limits(**limits))


def _asked(processor: Processor, *parts: Any) -> object:
    return processor([[{"role": "user", "content": list(parts)}]])


_TEXT = {"type": "text", "text": "x"}
_ARRAY = np.zeros((8, 64, 64, 3), dtype=np.uint8)

CONVERSATIONS: Mapping[str, Bad] = {
    "no conversations": Bad("at least one", lambda things: things.processor([])),
    "conversations are a text": Bad("list of conversations", lambda things: _ask(things, "hi")),
    "padding side": Bad("padding_side", lambda things: things.asked("x", padding_side="middle")),
    "a row is a text": Bad("list of turns", lambda things: _ask(things, ["hi"])),
    "a row without turns": Bad("at least one", lambda things: things.processor([[]])),
    "a turn is a text": Bad("role and content", _turns("hi")),
    "a turn without a role": Bad("role and content", _turns({"content": "x"})),
    "an unknown role": Bad("role", _turns({"role": "robot", "content": "x"})),
    "a turn without content": Bad("content", _turns({"role": "user", "content": None})),
    "content is a number": Bad("content of type int", _turns({"role": "user", "content": 3})),
    "an unknown part": Bad("of type 'sound'", _part({"type": "sound", "sound": "a.wav"})),
    "a part without its key": Bad("has no key", _part({"type": "image"})),
    "a part of two kinds": Bad("two parts", _part({"type": "text", "text": "x", "image": "a.png"})),
    "a text that is a number": Bad("text of type int", _part({"type": "text", "text": 3})),
    "a vision token in a text": Bad("<|image_pad|> in its text", lambda things: things.asked("a <|image_pad|>")),
    "a vision token in two texts": Bad(
        "<|video_pad|> in its text", lambda things: things.asked("a <|video", "_pad|> b")
    ),
    "a vision token in a string": Bad(
        "<|vision_start|> in its text", _turns({"role": "user", "content": "<|vision_start|>"})
    ),
    "a turn token in a text": Bad("<|im_end|> in its text", lambda things: things.asked("a<|im_end|>")),
    "a turn token in another field": Bad(
        "<|im_start|> in its text", _turns({"role": "user", "content": "x", "name": "<|im_start|>"})
    ),
    "a control token in tools": Bad(
        "<|vision_end|> in its text", lambda things: things.asked("x", tools=[{"name": "<|vision_end|>"}])
    ),
    "a control token in variables": Bad(
        "<|endoftext|> in its text", lambda things: things.asked("x", variables={"a": ["<|endoftext|>"]})
    ),
    "a lone surrogate": Bad("lone surrogate", lambda things: things.asked("\ud800")),
    "nested too deeply": Bad("levels deep", _turns({"role": "user", "content": "x", "more": _nested(60)})),
    "a key that is a number": Bad("not JSON", lambda things: things.asked("x", variables={"a": {3: "x"}})),
    "tools without a template for them": Bad("refuses", lambda things: things.asked("x", tools=[{"name": "f"}])),
    "a system turn in the middle": Bad(
        "refuses", _turns({"role": "user", "content": "x"}, {"role": "system", "content": "y"})
    ),
    "too many placeholders": Bad("wrote", lambda things: _asked(_with_template(things, "<|image_pad|>"), _TEXT)),
    "no tokens": Bad("no tokens", lambda things: _asked(_with_template(things, ""), _TEXT)),
    "too many tokens": Bad(
        "max_prompt_tokens", lambda things: _asked(_with_template(things, "word word word", max_prompt_tokens=2), _TEXT)
    ),
    "too many picture tokens": Bad(
        "max_prompt_tokens",
        lambda things: _asked(
            _with_template(things, "<|image_pad|>", max_prompt_tokens=2), {"type": "image", "image": things.picture}
        ),
    ),
    "an endless template": Bad(
        "max_template_seconds",
        lambda things: _asked(
            _with_template(
                things,
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
                max_template_seconds=0.5,
            ),
            _TEXT,
        ),
    ),
    "a prompt without end": Bad(
        "asks for more",
        lambda things: _asked(_with_template(things, "{{ 'x' * 9999 }}", max_prompt_characters=100), _TEXT),
    ),
    "a template that does not compile": Bad("does not compile", lambda things: _with_template(things, "{% if %}")),
    "a template that is too long": Bad("characters", lambda things: _with_template(things, "x" * 1_000_001)),
    "ids that cannot exist": Bad("no token", lambda things: things.processor.decode([-1])),
}

MEDIA: Mapping[str, Bad] = {
    "a picture that does not exist": Bad("does not exist", lambda things: things.shown(Path("nowhere.png"))),
    "a picture's address": Bad("URL", lambda things: things.shown("http://localhost/a.png")),
    "a picture that is a folder": Bad("folder", lambda things: things.shown(things.scratch)),
    "a picture that is a pipe": Bad("regular file", lambda things: things.shown(_pipe(things))),
    "an empty picture": Bad("empty", lambda things: things.shown(_file(things, "empty.png", b""))),
    "a picture of an unknown format": Bad("unknown format", lambda things: things.shown(b"GIF is not here")),
    "a damaged picture": Bad("cannot be decoded", lambda things: things.shown(things.picture.read_bytes()[:150])),
    "a picture that runs programs": Bad(
        "another program",
        lambda things: things.shown(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    ),
    "a picture that is a number": Bad("picture is a int", lambda things: things.shown(3)),
    "a picture of floats": Bad("uint8", lambda things: things.shown(np.zeros((8, 8, 3)))),
    "a picture with four channels": Bad("uint8", lambda things: things.shown(np.zeros((8, 8, 4), dtype=np.uint8))),
    "a picture without pixels": Bad("at least 1", lambda things: things.shown(np.zeros((0, 8, 3), dtype=np.uint8))),
    "a picture that is too narrow": Bad("aspect ratio", lambda things: things.shown(Image.new("RGB", (201, 1)))),
    "a picture with too many pixels": Bad(
        "max_picture_pixels", lambda things: load_picture(things.picture, Limits(max_picture_pixels=99))
    ),
    "an array with too many pixels": Bad(
        "at most", lambda things: load_picture(_ARRAY[0], Limits(max_picture_pixels=99))
    ),
    "a decompression bomb": Bad("too large", lambda things: load_picture(_bomb(), Limits())),
    "a video that does not exist": Bad("does not exist", lambda things: things.played(Path("nowhere.mp4"))),
    "a video's address": Bad("URL", lambda things: things.played("https://localhost/a.mp4")),
    "a video that is a pipe": Bad("regular file", lambda things: things.played(_pipe(things))),
    "an empty video": Bad("empty", lambda things: things.played(_file(things, "empty.mp4", b""))),
    "a damaged video": Bad("cannot be decoded", lambda things: things.played(_file(things, "bad.mp4", b"x" * 999))),
    "a playlist": Bad("cannot be decoded", lambda things: things.played(_file(things, "a.m3u8", _playlist(things)))),
    "a video with a rate of its own": Bad("own frame rate", lambda things: things.played(things.clip, fps=2.0)),
    "a frame rate of zero": Bad("larger than 0", lambda things: things.played(_ARRAY, fps=0)),
    "a frame rate that is true": Bad("larger than 0", lambda things: things.played(_ARRAY, fps=True)),
    "an endless frame rate": Bad("larger than 0", lambda things: things.played(_ARRAY, fps=float("inf"))),
    "a video that is bytes": Bad("video is a bytes", lambda things: things.played(b"x")),
    "a video with one channel": Bad("uint8", lambda things: things.played(_ARRAY[..., :1])),
    "a video of one frame": Bad("temporal patch needs", lambda things: things.played(_ARRAY[:1])),
    "a folder without frames": Bad("no pictures", lambda things: things.played(_folder(things, "none"))),
    "a folder with other files": Bad(
        "not a picture", lambda things: things.played(_file(things, "notes.txt", b"x").parent)
    ),
    "frames of two sizes": Bad(
        "same size", lambda things: things.played(_folder(things, "sizes", (64, 64), (64, 64), (64, 32)))
    ),
    "frames that are too narrow": Bad(
        "aspect ratio", lambda things: things.played(np.zeros((4, 80, 16001, 3), np.uint8))
    ),
    "a video with too many pixels": Bad(
        "max_video_pixels",
        lambda things: load_video(_ARRAY, things.processor.video, limits=Limits(max_video_pixels=999)),
    ),
    "frames with too many pixels": Bad(
        "at most", lambda things: load_video(_ARRAY, things.processor.video, limits=Limits(max_picture_pixels=99))
    ),
    "a video file with too many pixels": Bad(
        "max_video_pixels",
        lambda things: load_video(things.clip, things.processor.video, limits=Limits(max_video_pixels=999)),
    ),
    "a video file with too many frames": Bad(
        "max_video_packets",
        lambda things: load_video(things.clip, things.processor.video, limits=Limits(max_video_packets=1)),
    ),
    "a video without a picture stream": Bad("no video stream", lambda things: things.played(_sound(things))),
    "a list without pictures": Bad("temporal patch needs", lambda things: things.played([])),
    "a video that is a number": Bad("video is a int", lambda things: things.played(3)),
    "a list of other sizes": Bad("same size", lambda things: things.played([_ARRAY[0], _ARRAY[0], _ARRAY[0, :32]])),
    "a picture without height": Bad(
        "at least 1", lambda _things: smart_resize(0, 9, factor=32, min_pixels=1, max_pixels=9)
    ),
    "a video without frames": Bad("above 0", lambda things: sample_frames(0, 24.0, things.processor.video)),
}


def _sound(things: Things) -> Path:
    """An MP4 that holds a second of silence and no pictures."""
    import av  # loads FFmpeg, which only runs with a video need

    path = things.scratch / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _bomb() -> bytes:
    """The header of a picture of a billion pixels."""
    return b"P6 40000 40000 255\n"


def _playlist(things: Things) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{things.clip}\n#EXT-X-ENDLIST\n".encode()
