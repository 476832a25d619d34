"""Limits of the processor, so that hostile or broken input takes bounded memory and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Generous limits. The caller can raise each of them.

    max_picture_pixels: pixels of one picture or frame before the resize (a file of a few KB can hold a billion).
        The default is as much as Pillow opens. To go above it, raise ``PIL.Image.MAX_IMAGE_PIXELS`` as well.
    max_aspect_ratio: of pictures. Above 200 it has no effect, because the resize refuses more, as in the reference.
    max_video_packets: frames of one video, kept or not, because a stream may never end.
    max_video_pixels: pixels of all kept frames of one video together, as decoded. Each takes three bytes.
    max_prompt_tokens: tokens of one row after the placeholders are expanded.
    max_prompt_characters: characters of one rendered prompt.
    max_template_seconds: for compiling a chat template, and for each rendering. Waiting for other threads does not
        count.
    max_template_memory: bytes of address space of the process that renders, on Linux. Python and Jinja take some 50 MB.
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
