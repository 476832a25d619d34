"""What the processor refuses, so that hostile or broken input costs bounded memory and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Generous bounds; every one can be raised by the caller.

    max_picture_pixels: of one picture or frame as stored, before the resize (a bomb of a few KB can hold a billion).
        As much as Pillow opens; it has a bound of its own, ``PIL.Image.MAX_IMAGE_PIXELS``, to be raised too.
    max_aspect_ratio: of pictures. The resize refuses more than 200 whatever it says, as the reference's does.
    max_video_packets: frames of one video, kept or not; a stream may never end.
    max_video_pixels: of all kept frames of one video together, as decoded; each takes three bytes.
    max_prompt_tokens: of one row after the placeholders are expanded.
    max_prompt_characters: of one rendered prompt.
    max_template_seconds: for compiling a chat template, and for each rendering; waiting for other threads not counted.
    max_template_memory: bytes of address space of the process that renders, on Linux; Python and Jinja take some 50 MB.
    """

    max_picture_pixels: int = 178_956_970
    max_aspect_ratio: int = 200
    max_video_packets: int = 500_000
    max_video_pixels: int = 2_000_000_000
    max_prompt_tokens: int = 1_000_000
    max_prompt_characters: int = 10_000_000
    max_template_seconds: float = 20.0
    max_template_memory: int = 512 * 2**20


DEFAULT_LIMITS = Limits()
