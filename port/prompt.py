"""Placeholders in prompts: one for each picture and video as the template writes them, one for each feature after.

Shape legend
    M   merge_size; a picture or frame pair of h x w patches has h * w / M^2 features
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from port.errors import InputError
from port.limits import DEFAULT_LIMITS, Limits
from port.tokenizer import (
    END_OF_TEXT,
    IMAGE_PAD,
    TURN_END,
    TURN_START,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    Tokenizer,
    check_unicode,
)

# How a video is written. The template writes <|vision_start|><|video_pad|><|vision_end|> for it.
# "inside": its frame pairs in the place of the pad, inside the template's own pair of vision tokens, two tokens more a
# video. That is transformers 5 (``ProcessorMixin.get_text_with_replacements`` replaces the pad alone), the default here
# because the port is held to the installed reference.
# "in place": its frame pairs in the place of all three. That is transformers 4.57
# (``Qwen3VLProcessor.__call__`` replaces the three where it finds them), the release that came with the weights and so
# most likely what they saw in training, of which nothing is published.
VideoStyle = Literal["inside", "in place"]
_PLACEHOLDERS = (IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END)
_TURNS = (TURN_START, TURN_END, END_OF_TEXT)
_ROLES = ("system", "user", "assistant", "tool")
_PARTS = ("text", "image", "video")
_MAX_DEPTH = 50


@dataclass(frozen=True)
class Medium:
    """One picture or video of a conversation: ``part`` is its entry, ``where`` its place in words."""

    kind: Literal["image", "video"]
    part: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class VideoText:
    """What the prompt says of a video: seconds of each frame pair, features of each."""

    seconds: Sequence[float]
    features: int


def media_of(conversation: Sequence[Mapping[str, Any]], row: int, *, allow_turns: bool = False) -> list[Medium]:
    """All pictures and videos of a conversation in reading order; checks its form on the way.

    Raises InputError for an unknown role or part, a missing key, and for text that ``check_text`` refuses.
    """
    if isinstance(conversation, str | bytes | Mapping) or not isinstance(conversation, Sequence):
        raise InputError(
            f"row {row} is a {type(conversation).__name__}, expected a list of turns; pass a list of conversations"
        )
    if not conversation:
        raise InputError(f"row {row} has no turns; a conversation needs at least one")
    found: list[Medium] = []
    for turn, message in enumerate(conversation):
        where = f"row {row}, turn {turn}"
        if not isinstance(message, Mapping):
            raise InputError(f"{where} is a {type(message).__name__}; a turn is a dict and must have role and content")
        if "role" not in message or ("content" not in message and "tool_calls" not in message):
            raise InputError(f"{where} must have role and content; it has {', '.join(map(repr, message)) or 'nothing'}")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise InputError(f"{where} has the role {role!r}; use {', '.join(_ROLES)}")
        rest = {key: value for key, value in message.items() if key not in ("role", "content")}
        check_text(rest, where, allow_turns=allow_turns)
        if isinstance(content, str):
            check_text(content, where, allow_turns=allow_turns)
        elif content is None:
            if message.get("tool_calls") is None:
                raise InputError(f"{where} has no content; use a text or a list of parts")
        elif not isinstance(content, list | tuple):
            raise InputError(f"{where} has content of type {type(content).__name__}; use a text or a list of parts")
        else:
            found += _parts(content, where, allow_turns=allow_turns)
    return found


def check_text(value: Any, where: str, *, allow_turns: bool = False, depth: int = 0) -> None:
    """Raise InputError where a text, or one anywhere inside a list or dict, holds the name of a control token.

    Refused are vision tokens, and unless ``allow_turns`` those that start or end a turn or a text. Tokenized, a name
    becomes the token. The reference takes such text unless it is told to ``sanitize_control_tokens``: it then counts
    pictures wrong, or lets a user end the turn and speak as the system or the assistant. Refused too is text that is
    not Unicode, and what is nested deeper than anything of JSON that a template can write.
    """
    if depth > _MAX_DEPTH:
        raise InputError(f"{where} is nested more than {_MAX_DEPTH} deep; flatten it")
    if isinstance(value, str):
        check_unicode(value, where)
        for token in (*_PLACEHOLDERS, *(() if allow_turns else _TURNS)):
            if token in value:
                raise InputError(
                    f"{where} has {token} in its text, which would become that token; leave it out"
                    + (", or load the processor with allow_turns=True" if token in _TURNS else "")
                    + (": pictures and videos are parts of their own" if token in _PLACEHOLDERS else "")
                )
    elif isinstance(value, Mapping | list | tuple):
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        for item in inner:
            check_text(item, where, allow_turns=allow_turns, depth=depth + 1)


def _parts(content: Sequence[Any], where: str, *, allow_turns: bool) -> Iterator[Medium]:
    """The media of one turn, after a look at all of its parts."""
    run = ""  # texts without a medium between them: the template writes them as one
    for place, part in enumerate(content):
        at = f"{where}, part {place}"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            raise InputError(f"{at} is of type {kind!r}; use {', '.join(_PARTS)}")
        if part.get(kind) is None:
            raise InputError(f"{at} is of type {kind!r} and has no key {kind!r}; put the {kind} there")
        others = [other for other in _PARTS if other != kind and other in part]
        if others:
            # Templates differ in whether they go by the type or by the keys.
            raise InputError(f"{at} is of type {kind!r} and has the key {others[0]!r} too; make it two parts")
        rest = {key: value for key, value in part.items() if key != kind}
        check_text(rest, at, allow_turns=allow_turns)
        if kind != "text":
            run = ""
            yield Medium(kind, part, at)
        elif not isinstance(part["text"], str):
            raise InputError(f"{at} has a text of type {type(part['text']).__name__}; use a string")
        else:
            run += part["text"]
            check_text(run, at, allow_turns=allow_turns)


def prompt_ids(
    text: str,
    tokenizer: Tokenizer,
    *,
    images: Sequence[int],
    videos: Sequence[VideoText],
    style: VideoStyle,
    row: int,
    limits: Limits = DEFAULT_LIMITS,
) -> list[int]:
    """Ids of a rendered prompt, with as many pads for each picture as ``images`` says, and frame pairs for videos.

    Raises InputError where the template wrote another number of placeholders, or the prompt is too long.
    """
    for name, placeholder, count in (("pictures", IMAGE_PAD, len(images)), ("videos", VIDEO_PAD, len(videos))):
        written = text.count(placeholder)
        if written != count:
            raise InputError(
                f"row {row} has {count} {name}, the chat template wrote {written} {placeholder}; it must write "
                "one each: take the checkpoint's own template, or media out of turns for which it writes none"
            )
    pads = sum(images) + sum(len(video.seconds) * video.features for video in videos)
    if pads > limits.max_prompt_tokens:
        raise InputError(
            f"row {row} has {pads:,} picture and video tokens, at most {limits.max_prompt_tokens:,} are taken; use "
            "fewer or smaller ones, or raise Limits.max_prompt_tokens"
        )
    ids = tokenizer.encode(_with_frames(text, videos, style))
    image_id, video_id = tokenizer.id_of(IMAGE_PAD), tokenizer.id_of(VIDEO_PAD)
    image_counts = iter(images)
    video_counts = iter([video.features for video in videos for _ in video.seconds])
    expanded: list[int] = []
    for token in ids:
        if token == image_id:
            expanded += [token] * next(image_counts)
        elif token == video_id:
            expanded += [token] * next(video_counts)
        else:
            expanded.append(token)
    if len(expanded) > limits.max_prompt_tokens:
        raise InputError(
            f"row {row} has {len(expanded):,} tokens, at most {limits.max_prompt_tokens:,} are taken; shorten it, or "
            "raise Limits.max_prompt_tokens"
        )
    return expanded


def _with_frames(text: str, videos: Sequence[VideoText], style: VideoStyle) -> str:
    """Every video pad, or its whole triple, replaced by timestamps and one pad for each frame pair."""
    waiting = iter(videos)

    def frames(_match: re.Match[str]) -> str:
        video = next(waiting)
        return "".join(f"<{second:.1f} seconds>{VISION_START}{VIDEO_PAD}{VISION_END}" for second in video.seconds)

    pad = re.escape(VIDEO_PAD)
    if style == "inside":
        return re.sub(pad, frames, text)
    # A pad without its pair is replaced alone, as 4.57 does.
    return re.sub(f"{re.escape(VISION_START)}{pad}{re.escape(VISION_END)}|{pad}", frames, text)
