"""Cases about sizes: pictures and videos at the limits of the processor, and other settings of it."""

from __future__ import annotations

from typing import Any

from parity.cases.case import ODD, OTHER, TINY, Case, Edit, Row, SeededCheckpoint
from parity.cases.large import TINY_LARGE
from parity.cases.media import (
    FURTHER_FORMATS,
    Clip,
    Encoded,
    FrameFolder,
    GivenFrames,
    GivenPicture,
    Noise,
    Photo,
)

PICTURE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"
_NORMALISED: tuple[Edit, ...] = (
    (PICTURE_FILE, "image_mean", (0.4, 0.45, 0.55)),
    (PICTURE_FILE, "image_std", (0.25, 0.3, 0.2)),
    (PICTURE_FILE, "rescale_factor", 1 / 127.5),
    (VIDEO_FILE, "image_mean", (0.6, 0.35, 0.5)),
    (VIDEO_FILE, "image_std", (0.3, 0.2, 0.35)),
    (VIDEO_FILE, "rescale_factor", 1 / 200),
)
_OTHER: tuple[Edit, ...] = (
    *_NORMALISED,
    (VIDEO_FILE, "fps", 3.5),
    (VIDEO_FILE, "min_frames", 2),
    (VIDEO_FILE, "max_frames", 7),
    (VIDEO_FILE, "size.shortest_edge", 20000),
    (VIDEO_FILE, "size.longest_edge", 60000),
    (PICTURE_FILE, "size.shortest_edge", 9000),
    (PICTURE_FILE, "size.longest_edge", 20000),
)
_COUNTED: tuple[Edit, ...] = (
    (VIDEO_FILE, "fps", None),
    (VIDEO_FILE, "num_frames", 5),
    (VIDEO_FILE, "cap_pixels_per_frame", True),
    (VIDEO_FILE, "max_video_tokens", 6),
    (VIDEO_FILE, "size.shortest_edge", 4096),
    (VIDEO_FILE, "size.longest_edge", 65536),
)


_CAPPED: tuple[Edit, ...] = (
    (VIDEO_FILE, "cap_pixels_per_frame", True),
    (VIDEO_FILE, "max_video_tokens", 6),
    (VIDEO_FILE, "size.shortest_edge", 2048),
    (VIDEO_FILE, "size.longest_edge", 40000),
)


def limit_cases() -> list[Case]:
    """Return the cases about sizes. They belong to phase 1."""
    return [
        _case(
            "formats-further",
            "every EXIF orientation, black and white, grey with alpha, 16 bits, animations, WebP, BMP",
            tuple(part for form in FURTHER_FORMATS for part in (f"{form}: ", Encoded(Photo((70, 90)), form))),
        ),
        _case(
            "given-otherwise",
            "pictures as text, bytes, Pillow image and arrays; videos as pictures and as an array, with a frame rate",
            (
                *(GivenPicture(Encoded(Photo((70, 90)), "exif-5"), form) for form in ("text", "bytes", "pillow")),
                GivenPicture(Noise(70, 90, seed=54), "array"),
                GivenPicture(Encoded(Photo((50, 60)), "grey"), "grey array"),
                *(GivenFrames(FrameFolder(Clip(7, 48, 64)), form, fps=3.0) for form in ("pictures", "array")),
                GivenFrames(FrameFolder(Clip(50, 32, 32)), "text"),
            ),
        ),
        _case(
            "small-pictures",
            "pictures of a pixel, with a side of one pixel, smaller than a patch, and as narrow as is allowed",
            _shown((1, 1), (200, 1), (1, 200), (5, 3), (31, 33), (16, 48), (17, 1), (80, 80), (46, 48)),
        ),
        _case(
            "budget-corners",
            "pictures at, just above and just below the largest and smallest number of pixels",
            _shown((512, 512), (528, 512), (528, 496), (650, 400), (1023, 257), (64, 64), (63, 64), (47, 79), (80, 48)),
        ),
        _case(
            "budget-released",
            "the released limits: pictures below 65,536 pixels, and one between the limits",
            _shown((100, 100), (350, 50), (700, 500)),
            TINY_LARGE,
        ),
        _case(
            "budget-released-large",
            "the released limits: a picture and a video that are too large",
            ("A ", Encoded(Noise(5000, 3500, seed=51), "bmp"), " b ", Clip(16, 1280, 1280, fps=2.0)),
            TINY_LARGE,
            grids_only=True,
        ),
        _case(
            "video-corners",
            "odd numbers of frames near the limits, as few as fill a patch, small frames, other rates, a folder",
            (
                *_clips((7, 288, 256, 2.0), (5, 352, 320, 2.0), (3, 32, 32, 1.0), (2, 32, 64, 2.0), (4, 20, 28, 2.0)),
                *_clips((61, 32, 32, 30.0), (8, 48, 32, 0.7), (23, 64, 32, 23.976)),
                FrameFolder(Clip(13, 64, 48)),
                FrameFolder(Clip(12, 17, 43)),
                " end",
            ),
            since=(5, 18),  # before, a side that is smaller than a merged patch is refused
        ),
        _case(
            "video-corners-odd",
            "temporal patches of 4 frames: numbers of frames that are halfway between multiples",
            _clips((6, 168, 126, 2.0), (10, 252, 210, 2.0), (4, 84, 42, 2.0), (7, 44, 44, 2.0)),
            ODD,
            since=(5, 0),  # before, only one frame can be added to fill a temporal patch
        ),
        _case(
            "video-corners-other",
            "temporal patches of 3 frames, 4 x 4 merged patches",
            (*_clips((4, 64, 96, 2.0), (8, 224, 224, 2.0), (3, 32, 32, 2.0)), Noise(333, 450, seed=52)),
            OTHER,
            since=(5, 0),
        ),
        _case(
            "other-settings",
            "other means, deviations and scales of each channel, frames per second, limits of frames and of pixels",
            (*_clips((30, 64, 48, 8.0), (3, 64, 48, 9.0), (9, 96, 128, 6.0)), *_shown((60, 60), (200, 180))),
            SeededCheckpoint("tiny", edits=_OTHER, rewrites=("older-pixel-limits",)),
        ),
        _case(
            "frames-capped",
            "clips of few frames with the largest number of tokens, and of many with their share of the budget",
            _clips((4, 160, 128, 2.0), (13, 160, 128, 2.0), (33, 160, 128, 2.0)),
            SeededCheckpoint("tiny", edits=_CAPPED),
            since=(5, 22),
        ),
        _case(
            "frames-counted",
            "a fixed number of frames, each with a largest number of tokens; the settings in one file",
            _clips((30, 64, 48, 8.0), (6, 256, 160, 3.0), (9, 96, 64, 2.0)),
            SeededCheckpoint("tiny", edits=_COUNTED, rewrites=("one-processor-file",)),
            since=(5, 22),
        ),
    ]


def _case(name: str, title: str, row: Row, checkpoint: SeededCheckpoint = TINY, **rest: Any) -> Case:
    return Case(name, title, 1, checkpoint, (row,), stages=("processor",), **rest)


def _shown(*sizes: tuple[int, int]) -> Row:
    return tuple(Noise(width, height, seed=60 + at) for at, (width, height) in enumerate(sizes))


def _clips(*clips: tuple[int, int, int, float]) -> Row:
    return tuple(Clip(frames, width, height, fps) for frames, width, height, fps in clips)
