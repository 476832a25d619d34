"""The small tokenizer works, always has the same bytes, and has Qwen's special tokens."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from reference import tokenizer as subject
from reference.template import chat_template, template_files

# Changes only with the corpus, the specials, or how the tokenizers library learns merges: all of them change
# every seeded checkpoint, so it must not happen unnoticed.
TOKENIZER_SHA256 = "ad21bc92944df0ccf800fa44e29b9cb389e39462e80f781c6d91b4b9f48c07b3"


@pytest.fixture(scope="module")
def parts() -> subject.TokenizerParts:
    return subject.tokenizer_parts()


@pytest.fixture(scope="module")
def files(parts: subject.TokenizerParts) -> dict[str, bytes]:
    return subject.tokenizer_files(parts, chat_template=chat_template(), max_length=4096)


@pytest.fixture(scope="module")
def tokenizer(files: dict[str, bytes]) -> Tokenizer:
    return Tokenizer.from_str(files["tokenizer.json"].decode())


def test_bytes_are_pinned(files: dict[str, bytes]) -> None:
    assert hashlib.sha256(files["tokenizer.json"]).hexdigest() == TOKENIZER_SHA256


def test_another_process_and_hash_seed_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from reference.tokenizer import *; "
        "f = tokenizer_files(tokenizer_parts(), chat_template='', max_length=1); "
        "print(hashlib.sha256(f['tokenizer.json']).hexdigest())"
    )
    env = {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=Path(subject.__file__).parents[1],
    )
    assert done.stdout.strip() == TOKENIZER_SHA256


def test_size_is_bytes_plus_merges_plus_specials(parts: subject.TokenizerParts) -> None:
    assert len(parts.vocab) == 256 + subject.MERGES
    assert parts.size == 256 + subject.MERGES + len(subject.SPECIAL_TOKENS)
    assert sorted([*parts.vocab.values(), *parts.special_ids.values()]) == list(range(parts.size))
    assert all(left + right in parts.vocab for left, right in parts.merges)


@pytest.mark.parametrize(
    "text",
    [
        "plain words, and don't forget they'll come",
        "  leading   and trailing  \n\n\t tabs \r\n",
        "\u8bf7\u63cf\u8ff0\u8fd9\u5f20\u56fe\u7247\u3002",
        "\u00e9\u00df\u0416\u0623\uc0ac \U0001f600\U0001f469\u200d\U0001f680 \u2028 \ufffd",
        "1234567890 3.14e-10",
        "<|im_start|>user\nhi<|im_end|>\n<think>\n</think><tool_call>",
        "",
    ],
)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_random_code_points_come_back_in_composed_form(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    points = [point for point in range(0x20, 0x30000) if not 0xD800 <= point <= 0xDFFF]
    for _ in range(50):
        text = "".join(map(chr, draw.sample(points, 40)))
        composed = unicodedata.normalize("NFC", text)
        again = tokenizer.decode(tokenizer.encode(text).ids)
        # The library may know a newer Unicode than Python: what it composed, Python must accept as equal.
        assert again == composed or unicodedata.normalize("NFC", again) == composed


def test_decomposed_input_is_composed(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids


def test_merges_are_used_and_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("the picture and the table").ids) <= 6
    assert tokenizer.encode("2024").tokens == ["2", "0", "2", "4"]


def test_special_tokens_are_single_and_in_qwens_order(tokenizer: Tokenizer, parts: subject.TokenizerParts) -> None:
    base = parts.special_ids["<|endoftext|>"]
    published = {"<|im_start|>": 1, "<|im_end|>": 2, "<|vision_start|>": 9, "<|vision_end|>": 10}
    published |= {"<|vision_pad|>": 11, "<|image_pad|>": 12, "<|video_pad|>": 13, "<tool_call>": 14}
    published |= {"<tool_response>": 22, "<think>": 24, "</think>": 25}
    for token, offset in published.items():
        assert tokenizer.encode(token).ids == [base + offset]
    assert parts.size - base == 26


def test_markers_stay_in_text_and_control_tokens_go(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|><think>a</think><|im_end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"


def test_published_base_puts_the_pads_where_ports_hard_code_them() -> None:
    parts = subject.tokenizer_parts(special_base=151643)
    assert parts.size == 151669
    assert parts.special_ids["<|image_pad|>"] == 151655
    files = subject.tokenizer_files(parts, chat_template="", max_length=8)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("<|vision_start|><|image_pad|>").ids == [151652, 151655]
    small = subject.tokenizer_parts()
    small_files = subject.tokenizer_files(small, chat_template="", max_length=8)
    text = "Describe the picture: [unused700] is plain text."
    assert tokenizer.encode(text).ids == Tokenizer.from_str(small_files["tokenizer.json"].decode()).encode(text).ids


def test_a_base_among_plain_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="special_base 655 falls among the 656 plain tokens"):
        subject.tokenizer_parts(special_base=655)


def test_vocab_and_merges_files_rebuild_the_same_tokenizer(tokenizer: Tokenizer, files: dict[str, bytes]) -> None:
    model = json.loads(files["tokenizer.json"])["model"]
    assert json.loads(files["vocab.json"]) == model["vocab"]
    lines = files["merges.txt"].decode().splitlines()
    assert lines[0].startswith("#version")
    assert lines[1:] == model["merges"]


# The template, as transformers renders it.


def _render(messages: list[dict[str, Any]], **options: Any) -> str:
    rendered, _ = render_jinja_template(
        conversations=[messages], tools=None, documents=None, chat_template=chat_template(), **options
    )
    return str(rendered[0])


_PICTURE = {"type": "image", "image": "a.png"}
_VIDEO = {"type": "video", "video": "a.mp4"}


def test_turns_and_generation_prompt() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
    ]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    )
    assert _render(messages) == expected
    assert _render(messages, add_generation_prompt=True) == expected + "<|im_start|>assistant\n"


def test_parts_keep_their_order_and_nothing_is_put_between_them() -> None:
    content = [{"type": "text", "text": "A"}, _PICTURE, {"type": "text", "text": "B"}, _VIDEO, _PICTURE]
    pad = "<|vision_start|><|{}_pad|><|vision_end|>"
    image, video = pad.format("image"), pad.format("video")
    rendered = _render([{"role": "user", "content": content}])
    assert rendered == f"<|im_start|>user\nA{image}B{video}{image}<|im_end|>\n"


def test_vision_ids_count_through_the_whole_conversation() -> None:
    messages = [{"role": "user", "content": [_PICTURE, _VIDEO]}, {"role": "user", "content": [_PICTURE]}]
    rendered = _render(messages, add_vision_id=True)
    assert [rendered.count(label) for label in ("Picture 1: ", "Video 1: ", "Picture 2: ", "Video 2: ")] == [
        1,
        1,
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"role": "tool", "content": "x"}], "unknown role 'tool'"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "x"}]}], "unknown content part"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "only as the first message"),
    ],
)
def test_what_the_template_does_not_know_raises(messages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(jinja2.exceptions.TemplateError, match=complaint):
        _render(messages)


def test_template_files_hold_one_text() -> None:
    files = template_files()
    assert files["chat_template.jinja"].decode() == chat_template()
    assert json.loads(files["chat_template.json"]) == {"chat_template": chat_template()}
