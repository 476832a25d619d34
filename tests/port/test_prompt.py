"""Placeholders in prompts, the two ways to write a video, and the allowed content of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from port.errors import InputError
from port.limits import Limits
from port.prompt import VideoStyle, VideoText, check_text, media_of, prompt_ids
from port.tokenizer import Tokenizer
from reference.checkpoint import make_checkpoint

START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
PICTURE: dict[str, Any] = {"type": "image", "image": np.zeros((4, 4, 3), np.uint8)}
CLIP: dict[str, Any] = {"type": "video", "video": np.zeros((2, 4, 4, 3), np.uint8), "fps": 2.0}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("prompt") / "tiny", "tiny")
    return Tokenizer.from_folder(folder)


def expanded(
    tokenizer: Tokenizer,
    text: str,
    *,
    images: Sequence[int] = (),
    videos: Sequence[VideoText] = (),
    style: VideoStyle = "inside",
    limits: Limits | None = None,
) -> str:
    """The prompt with its placeholders, as text."""
    ids = prompt_ids(text, tokenizer, images=images, videos=videos, style=style, row=3, limits=limits or Limits())
    assert ids == tokenizer.encode(tokenizer.decode(ids, skip_special_tokens=False))
    return tokenizer.decode(ids, skip_special_tokens=False)


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_every_picture_has_its_own_number_of_pads(tokenizer: Tokenizer) -> None:
    pad = f"{START}{IMAGE}{END}"
    assert expanded(tokenizer, f"a{pad}b{pad}{pad}", images=[2, 1, 3]) == (
        f"a{START}{IMAGE * 2}{END}b{START}{IMAGE}{END}{START}{IMAGE * 3}{END}"
    )


FIRST = VideoText((0.25, 1.25, 10.0), 2)  # 0.25 is written 0.2 and 1.25 is 1.2: halves go to even
SECOND = VideoText((0.0,), 1)
FRAMES = (
    f"<0.2 seconds>{START}{VIDEO * 2}{END}<1.2 seconds>{START}{VIDEO * 2}{END}<10.0 seconds>{START}{VIDEO * 2}{END}",
    f"<0.0 seconds>{START}{VIDEO}{END}",
)


def test_a_video_is_written_inside_the_pair_as_transformers_5_does(tokenizer: Tokenizer) -> None:
    pad = f"{START}{VIDEO}{END}"
    found = expanded(tokenizer, f"a{pad}b{pad}c", videos=[FIRST, SECOND])
    assert found == f"a{START}{FRAMES[0]}{END}b{START}{FRAMES[1]}{END}c"


def test_a_video_is_written_in_place_of_the_pair_as_transformers_4_57_does(tokenizer: Tokenizer) -> None:
    pad = f"{START}{VIDEO}{END}"
    found = expanded(tokenizer, f"a{pad}b{pad}c", videos=[FIRST, SECOND], style="in place")
    assert found == f"a{FRAMES[0]}b{FRAMES[1]}c"
    # Where the template writes no pair, only the pad is there to be replaced.
    assert expanded(tokenizer, f"a{VIDEO}c", videos=[SECOND], style="in place") == f"a{FRAMES[1]}c"


def test_pictures_and_videos_are_counted_apart(tokenizer: Tokenizer) -> None:
    found = expanded(tokenizer, f"{VIDEO}{IMAGE}{VIDEO}{IMAGE}", images=[1, 2], videos=[SECOND, FIRST])
    assert found == f"{FRAMES[1]}{IMAGE}{FRAMES[0]}{IMAGE * 2}"


@pytest.mark.parametrize(
    ("written", "images", "videos", "why"),
    [
        (f"{IMAGE}", 0, 0, r"row 3 has 0 pictures, but the chat template wrote 1 <\|image_pad\|>; .* own template"),
        (f"{IMAGE}", 2, 0, r"row 3 has 2 pictures, but the chat template wrote 1 <\|image_pad\|>"),
        ("", 1, 0, r"row 3 has 1 pictures, but the chat template wrote 0 <\|image_pad\|>"),
        (f"{VIDEO}{VIDEO}", 0, 1, r"row 3 has 1 videos, but the chat template wrote 2 <\|video_pad\|>"),
        (f"{IMAGE}", 0, 1, "row 3 has 0 pictures, but the chat template wrote 1"),
    ],
)
def test_media_and_placeholders_that_do_not_match_are_refused(
    tokenizer: Tokenizer, written: str, images: int, videos: int, why: str
) -> None:
    with pytest.raises(InputError, match=why):
        expanded(tokenizer, written, images=[1] * images, videos=[SECOND] * videos)


def test_long_prompts_are_refused_before_they_are_built(tokenizer: Tokenizer) -> None:
    limits = Limits(max_prompt_tokens=10)
    assert expanded(tokenizer, IMAGE, images=[10], limits=limits) == IMAGE * 10
    with pytest.raises(
        InputError, match=r"row 3 has 1,000,000,000,000 picture and video tokens, at most 10 .* Limits\."
    ):
        expanded(tokenizer, IMAGE, images=[10**12], limits=limits)
    with pytest.raises(InputError, match=r"row 3 has 12 picture and video tokens, at most 10"):
        expanded(tokenizer, f"{VIDEO}{VIDEO}", videos=[FIRST, FIRST], limits=limits)
    with pytest.raises(InputError, match=r"row 3 has 11 tokens, at most 10 .* raise Limits\.max_prompt_tokens"):
        expanded(tokenizer, f"{IMAGE}1", images=[10], limits=limits)
    with pytest.raises(InputError, match="row 3 has 11 tokens, at most 10"):
        expanded(tokenizer, "12345678901", limits=limits)


def test_media_come_in_reading_order_and_know_their_place() -> None:
    talk = [
        {"role": "system", "content": "s"},
        *user(CLIP, text("x"), PICTURE),
        {"role": "assistant", "content": "ok"},
        {"role": "assistant", "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": [PICTURE]},
        *user(),
    ]
    found = media_of(talk, 2)
    assert [medium.kind for medium in found] == ["video", "image", "image"]
    assert [medium.where for medium in found] == [
        "row 2, turn 1, part 0",
        "row 2, turn 1, part 2",
        "row 2, turn 4, part 0",
    ]
    assert found[0].part is CLIP


WRONG: dict[str, tuple[Any, str]] = {
    "no turns": ([], "row 1 has no turns"),
    "a turn for a list": ({"role": "user", "content": "a"}, "row 1 is a dict, not a list of turns"),
    "a text for a list": ("hello", "row 1 is a str, not a list of turns"),
    "a turn is a text": (["hello"], "row 1, turn 0 is a str"),
    "no role": ([{"content": "a"}], "row 1, turn 0 must have role and content; it has 'content'"),
    "no content": ([{"role": "user"}], "row 1, turn 0 must have role and content; it has 'role'"),
    "content is None": ([{"role": "user", "content": None}], "row 1, turn 0 has no content"),
    "unknown role": ([*user(), {"role": "wizard", "content": "a"}], "row 1, turn 1 has the role 'wizard'; use system"),
    "role is a list": ([{"role": ["user"], "content": "a"}], "row 1, turn 0 has the role"),
    "content is a number": ([{"role": "user", "content": 3}], "row 1, turn 0 has content of type int"),
    "content is a part": ([{"role": "user", "content": text("a")}], "row 1, turn 0 has content of type dict"),
    "part is a text": (user("a"), "row 1, turn 0, part 0 is of type None; use text, image, video"),
    "part has no type": (user(text("a"), {"text": "a"}), "row 1, turn 0, part 1 is of type None"),
    "unknown part": (user({"type": "audio", "audio": "a.wav"}), "row 1, turn 0, part 0 is of type 'audio'"),
    "other services' parts": (user({"type": "image_url", "image_url": {"url": "a"}}), "part 0 is of type 'image_url'"),
    "no picture": (user({"type": "image"}), "part 0 is of type 'image' and has no key 'image'; put the image there"),
    "no video": (user({"type": "video", "video": None}), "part 0 is of type 'video' and has no key 'video'"),
    "text is a number": (user(text(3)), "row 1, turn 0, part 0 has a text of type int"),  # type: ignore[arg-type]
    "two in one": (user({**PICTURE, "text": "a"}), "part 0 is of type 'image' and also has the key 'text'"),
    "picture in a text": (
        user({**text("a"), "image": "a.png"}),
        "part 0 is of type 'text' and also has the key 'image'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_conversation_of_the_wrong_form_is_refused_by_place(name: str) -> None:
    talk, why = WRONG[name]
    with pytest.raises(InputError, match=why):
        media_of(talk, 1)


VISION = [IMAGE, VIDEO, START, END]
TURNS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize("token", [*VISION, *TURNS])
@pytest.mark.parametrize(
    ("place", "talk"),
    [
        ("row 0, turn 0 ", lambda token: [{"role": "user", "content": f"a{token}b"}]),
        ("row 0, turn 1 ", lambda token: [*user(), {"role": "assistant", "content": token}]),
        ("row 0, turn 0, part 1 ", lambda token: user(PICTURE, text(token))),
        ("row 0, turn 0, part 1 ", lambda token: user(text(token[:5]), text(token[5:]))),
        ("row 0, turn 0, part 2 ", lambda token: user(text(token[:2]), text(""), text(token[2:] + "x"))),
        ("row 0, turn 0 ", lambda token: [{"role": "assistant", "content": "", "reasoning_content": token}]),
        ("row 0, turn 0 ", lambda token: [{"role": "assistant", "tool_calls": [{"arguments": {"x": [token]}}]}]),
        ("row 0, turn 0 ", lambda token: [{"role": "user", "content": "a", token: "b"}]),
        ("row 0, turn 0, part 0 ", lambda token: user({**PICTURE, "title": token})),
    ],
)
def test_names_of_control_tokens_in_texts_are_refused(token: str, place: str, talk: Any) -> None:
    conversation = talk(token)
    with pytest.raises(InputError) as caught:
        media_of(conversation, 0)
    assert str(caught.value).startswith(f"{place}has {token} in its text, which would become that token")
    assert ("allow_turns=True" in str(caught.value)) == (token in TURNS)
    if token in TURNS:
        media_of(conversation, 0, allow_turns=True)
    else:
        with pytest.raises(InputError, match="give pictures and videos as parts"):
            media_of(conversation, 0, allow_turns=True)


def test_what_only_looks_like_a_control_token_is_text() -> None:
    for harmless in ("<|im_end", "|im_end|>", "<image_pad>", "<|IM_END|>", "< |im_end|>", "<|box_start|>", "<think>"):
        media_of([*user(text(harmless), PICTURE, text(harmless)), {"role": "assistant", "content": harmless}], 0)
    media_of(user(text("<|im_"), PICTURE, text("end|>")), 0)  # the picture is between them
    check_text([1, None, 2.5, ("a", {"b": "<|"})], "tools")


def test_what_is_nested_without_end_is_refused() -> None:
    tools: list[Any] = []
    tools.append({"function": tools})
    with pytest.raises(InputError, match="tools is nested more than 50 levels deep"):
        check_text(tools, "tools")
    with pytest.raises(InputError, match="row 0, turn 0 is nested more than 50 levels deep"):
        media_of([{"role": "assistant", "tool_calls": tools}], 0)


def test_what_is_not_unicode_is_refused_by_place() -> None:
    with pytest.raises(InputError, match=r"row 0, turn 0, part 1 has the lone surrogate U\+DFFF at character 1"):
        media_of(user(PICTURE, text("a\udfff")), 0)
