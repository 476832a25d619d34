"""Mistakes in prompts and media that only further conversations and forms show."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import ImageOps

import port.picture
import port.processor
import port.template
import port.video
from parity.mutants.base import around, family, replaced
from port.template import ChatTemplate
from port.tokenizer import Tokenizer


def _rendered(change: Callable[..., Mapping[str, Any]]) -> AbstractContextManager[None]:
    """``change(conversation=, add_generation_prompt=, tools=, variables=)`` is what the template gets."""

    def render(original: Any, self: ChatTemplate, conversation: Any, **given: Any) -> str:
        changed = dict(change(conversation=conversation, **given))
        return original(self, changed.pop("conversation"), **changed)

    return around(ChatTemplate, "render", render)


def _with(**fixed: Any) -> AbstractContextManager[None]:
    return _rendered(lambda **given: {**given, **fixed})


def _turns(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> AbstractContextManager[None]:
    """``change(turn)`` is each turn; None leaves it out."""

    def changed(*, conversation: Any, **given: Any) -> dict[str, Any]:
        turns = [change(dict(turn)) for turn in conversation]
        return {"conversation": [turn for turn in turns if turn is not None] or conversation, **given}

    return _rendered(changed)


def _stripped(turn: dict[str, Any]) -> dict[str, Any]:
    content = turn.get("content")
    return {**turn, "content": content.strip()} if isinstance(content, str) else turn


def _sorted_tools(*, tools: Any, **given: Any) -> dict[str, Any]:
    return {"tools": json.loads(json.dumps(tools, sort_keys=True)), **given}


def _compatible(original: Any, self: Tokenizer, text: str) -> list[int]:
    return original(self, unicodedata.normalize("NFKC", text))


def _decomposed(original: Any, self: Tokenizer, text: str) -> list[int]:
    """Texts are given to the model without its own normaliser."""
    backend, own = self._backend, self._backend.normalizer
    backend.normalizer = None
    try:
        return original(self, text)
    finally:
        backend.normalizer = own


def _not_mirrored(image: Any) -> Any:
    """Orientations that mirror are taken for those that only turn."""
    turned = {2: 1, 4: 3, 5: 6, 7: 8}.get(image.getexif().get(0x0112, 1))
    if turned is None:
        return ImageOps.exif_transpose(image)
    image.getexif()[0x0112] = turned
    return ImageOps.exif_transpose(image)


def _last_frame(image: Any) -> Any:
    image.seek(getattr(image, "n_frames", 1) - 1)
    return ImageOps.exif_transpose(image)


def _upright(change: Callable[[Any], Any]) -> AbstractContextManager[None]:
    class Ops:
        exif_transpose = staticmethod(change)

    return replaced(port.picture, "ImageOps", Ops)


def _in_order_of_text(_original: Any, folder: Any) -> Any:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _white_scaled(original: Any, image: Any, name: str, limits: Any) -> Any:
    """Black and white pictures have the values 0 and 1."""
    pixels = original(image, name, limits)
    return pixels // np.uint8(255) if image.mode == "1" else pixels


def _no_rate(original: Any, source: Any, config: Any, **options: Any) -> Any:
    return original(source, config, **options | {"fps": None})


def _one_channel(original: Any, array: np.ndarray) -> np.ndarray:
    pixels = original(array)
    return pixels * np.array([1, 0, 0], dtype=np.uint8) if array.ndim == 2 else pixels


_PROCESSOR: dict[str, Any] = {"component": "prompt", "step": "processor", "stage": "processor"}
prompt = family(**_PROCESSOR, seam="processor.input_ids")
picture = family(**_PROCESSOR, seam="processor.images.{}.decoded")

MUTANTS = [
    prompt(
        "text-normalised-for-compatibility",
        "texts are normalised to NFKC instead of NFC",
        lambda: around(Tokenizer, "encode", _compatible),
        needs=frozenset({"accents"}),
    ),
    prompt(
        "text-not-normalised",
        "texts are not normalised",
        lambda: around(Tokenizer, "encode", _decomposed),
        needs=frozenset({"accents"}),
    ),
    prompt(
        "turns-stripped",
        "white space around the text of a turn is dropped",
        lambda: _turns(_stripped),
        needs=frozenset({"padded turns"}),
    ),
    prompt(
        "system-turn-lost",
        "the system turn is left out",
        lambda: _turns(lambda turn: None if turn["role"] == "system" else turn),
        needs=frozenset({"system"}),
    ),
    prompt(
        "answer-always-begun",
        "the prompt always begins an answer",
        lambda: _with(add_generation_prompt=True),
        needs=frozenset({"no answer begun"}),
    ),
    prompt(
        "template-variables-ignored",
        "further variables of the template are ignored",
        lambda: _with(variables=None),
        needs=frozenset({"variables"}),
    ),
    prompt("tools-ignored", "tools are ignored", lambda: _with(tools=None), needs=frozenset({"tools"})),
    prompt(
        "tools-sorted",
        "the fields of tools are sorted",
        lambda: _rendered(_sorted_tools),
        needs=frozenset({"tools"}),
    ),
    prompt(
        "older-reasoning-lost",
        "reasoning under its older names is lost",
        lambda: replaced(port.template, "_REASONING", ("reasoning_content",)),
        needs=frozenset({"reasoning"}),
    ),
    prompt(
        "template-of-tokenizer-first",
        "the template of tokenizer_config.json goes before the others",
        lambda: replaced(port.template, "_PLACES", tuple(reversed(port.template._PLACES))),
        needs=frozenset({"two templates", "reasoning"}),
    ),
    picture(
        "mirrored-orientation-ignored",
        "an EXIF orientation that mirrors is taken for one that turns",
        lambda: _upright(_not_mirrored),
        needs=frozenset({"mirrored orientation"}),
    ),
    picture(
        "last-frame-of-animation",
        "the last frame of an animation is used",
        lambda: _upright(_last_frame),
        needs=frozenset({"animated"}),
    ),
    picture(
        "bilevel-not-scaled",
        "black and white pictures have the values 0 and 1",
        lambda: around(port.picture, "_to_rgb", _white_scaled),
        needs=frozenset({"bilevel"}),
    ),
    picture(
        "folder-in-order-of-text",
        "frame 10 of a folder goes before frame 2",
        lambda: around(port.video, "_pictures_of", _in_order_of_text),
        seam="processor.videos.{}.decoded",
        needs=frozenset({"folder"}),
    ),
    picture(
        "given-rate-ignored",
        "the frame rate that is given with pictures is ignored",
        lambda: around(port.processor, "load_video", _no_rate),
        seam="processor.videos.{}.frame_indices",
        needs=frozenset({"given rate"}),
    ),
    picture(
        "grey-array-in-one-channel",
        "an array of a grey picture fills one channel",
        lambda: around(port.picture, "_from_array", _one_channel),
        needs=frozenset({"grey array"}),
    ),
    prompt(
        "special-tokens-not-given",
        "the template does not get the tokenizer's special tokens",
        lambda: replaced(port.template, "_SPECIAL", ()),
        needs=frozenset({"tools"}),
    ),
    picture(
        "folder-rate-25",
        "a folder of frames has 25 frames a second",
        lambda: replaced(port.video, "DEFAULT_FPS", 25.0),
        seam="processor.videos.{}.timestamps|processor.videos.{}.frame_indices",
        needs=frozenset({"folder"}),
    ),
]
