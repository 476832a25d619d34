"""Placeholders in prompts. The template writes one for each picture or video; here they become one for each feature.

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
# "inside": the frame pairs replace the pad only, inside the template's pair of vision tokens, which makes two tokens
# more per video. transformers 5 does this (``ProcessorMixin.get_text_with_replacements``). It is the default, because
# the port is compared with the installed reference.
# "in place": the frame pairs replace all three tokens. transformers 4.57 does this (``Qwen3VLProcessor.__call__``). It
# was released together with the weights, so this is most likely how they were trained; nothing is published about it.
VideoStyle = Literal["inside", "in place"]
_PLACEHOLDERS = (IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END)
_TURNS = (TURN_START, TURN_END, END_OF_TEXT)
_ROLES = ("system", "user", "assistant", "tool")
_PARTS = ("text", "image", "video")
_MAX_DEPTH = 50


@dataclass(frozen=True)
class Medium:
    """One picture or video of a conversation. ``where`` is its place in messages: ``row 0, turn 1, part 2``."""

    kind: Literal["image", "video"]
    part: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class VideoText:
    """What the prompt needs of a video: the seconds of each frame pair, and the number of features of one pair."""

    seconds: Sequence[float]
    features: int


def media_of(conversation: Sequence[Mapping[str, Any]], row: int, *, allow_turns: bool = False) -> list[Medium]:
    """All pictures and videos of a conversation in reading order. Also checks the format of the conversation.

    Raises InputError for an unknown role or part, a missing key, and for text that ``check_text`` refuses.
    """
    if isinstance(conversation, str | bytes | Mapping) or not isinstance(conversation, Sequence):
        raise InputError(
            f"row {row} is a {type(conversation).__name__}, not a list of turns; pass a list of conversations"
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
    """Raise InputError if a text, or any text inside a list or dict, contains the name of a control token.

    Vision tokens are refused, and so are the tokens that start or end a turn or a text, unless ``allow_turns``. The
    tokenizer turns such a name into the token. The reference accepts this unless ``sanitize_control_tokens`` is set.
    It then counts pictures wrong, or lets a user end the turn and speak as the system or the assistant. Text that is
    not valid Unicode and values that are nested too deeply are refused as well.
    """
    if depth > _MAX_DEPTH:
        raise InputError(f"{where} is nested more than {_MAX_DEPTH} levels deep; flatten it")
    if isinstance(value, str):
        check_unicode(value, where)
        for token in (*_PLACEHOLDERS, *(() if allow_turns else _TURNS)):
            if token in value:
                raise InputError(
                    f"{where} has {token} in its text, which would become that token; remove it"
                    + (", or load the processor with allow_turns=True" if token in _TURNS else "")
                    + (", and give pictures and videos as parts" if token in _PLACEHOLDERS else "")
                )
    elif isinstance(value, Mapping | list | tuple):
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        for item in inner:
            check_text(item, where, allow_turns=allow_turns, depth=depth + 1)


def _parts(content: Sequence[Any], where: str, *, allow_turns: bool) -> Iterator[Medium]:
    """The pictures and videos of one turn. Checks all of its parts."""
    run = ""  # texts without a picture or video between them, which the template writes as one
    for place, part in enumerate(content):
        at = f"{where}, part {place}"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            raise InputError(f"{at} is of type {kind!r}; use {', '.join(_PARTS)}")
        if part.get(kind) is None:
            raise InputError(f"{at} is of type {kind!r} and has no key {kind!r}; put the {kind} there")
        others = [other for other in _PARTS if other != kind and other in part]
        if others:
            # Some templates look at the type, others at the keys.
            raise InputError(f"{at} is of type {kind!r} and also has the key {others[0]!r}; make it two parts")
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
    """Ids of a rendered prompt, with one pad token for each feature of a picture (``images``) or video.

    Raises InputError if the template wrote a wrong number of placeholders, or if the prompt is too long.
    """
    for name, placeholder, count in (("pictures", IMAGE_PAD, len(images)), ("videos", VIDEO_PAD, len(videos))):
        written = text.count(placeholder)
        if written != count:
            raise InputError(
                f"row {row} has {count} {name}, but the chat template wrote {written} {placeholder}; it must write "
                "one for each: use the checkpoint's own template, or move them to turns for which it writes one"
            )
    pads = sum(images) + sum(len(video.seconds) * video.features for video in videos)
    if pads > limits.max_prompt_tokens:
        raise InputError(
            f"row {row} has {pads:,} picture and video tokens, at most {limits.max_prompt_tokens:,} are allowed; use "
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
            f"row {row} has {len(expanded):,} tokens, at most {limits.max_prompt_tokens:,} are allowed; shorten it, or "
            "raise Limits.max_prompt_tokens"
        )
    return expanded


def _with_frames(text: str, videos: Sequence[VideoText], style: VideoStyle) -> str:
    """The text with timestamps and one pad for each frame pair in place of each video, as ``style`` says."""
    waiting = iter(videos)

    def frames(_match: re.Match[str]) -> str:
        video = next(waiting)
        return "".join(f"<{second:.1f} seconds>{VISION_START}{VIDEO_PAD}{VISION_END}" for second in video.seconds)

    pad = re.escape(VIDEO_PAD)
    if style == "inside":
        return re.sub(pad, frames, text)
    # Without vision tokens around it, the pad alone is replaced, as in 4.57.
    return re.sub(f"{re.escape(VISION_START)}{pad}{re.escape(VISION_END)}|{pad}", frames, text)
