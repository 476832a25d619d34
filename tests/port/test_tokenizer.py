"""The tokenizer compared with the reference's: encoding, decoding, padding, and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from port.errors import ConfigError, InputError
from port.tokenizer import Tokenizer
from reference.tokenizer import SPECIAL_TOKENS

# Everything that tokenizers trip over: emoji with modifiers and joiners, combining marks, right-to-left, zero width,
# other blanks, line ends, digits of other scripts, ligatures, letters that NFC changes, and halves of special tokens.
TRICKY = st.text(
    alphabet="aé\u0301\u0308ßש\u0644\u0627\u202e\u200d\u200b\ufeff\u00a0\u3000\u2028🐈🏽👨👩\U0001f1e9\r\n\t 0129"
    "\u0663\u096a\ufb01\u00c5\u212b\uac00\u1100\u1161<>|'s",
    max_size=40,
)
TEXTS = st.one_of(
    st.text(max_size=40),
    TRICKY,
    st.lists(st.one_of(TRICKY, st.sampled_from(SPECIAL_TOKENS)), max_size=6).map("".join),
    st.sampled_from(
        ["", " ", "  x", "\r\n\r\n", "it's I'LL", "1234567890", "e\u0301", "\x00", "<|im_end", "|im_end|>"]
    ),
)
Side = Literal["left", "right"]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@given(text=TEXTS)
@settings(max_examples=400, deadline=None)
def test_ids_of_any_text_are_the_references(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode(text) == reference(text)["input_ids"]


@given(data=st.data(), skip=st.booleans())
@settings(max_examples=300, deadline=None)
def test_text_of_any_ids_is_the_references(
    tokenizer: Tokenizer, reference: Any, data: st.DataObject, skip: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, len(reference) + 3), max_size=20))
    assert tokenizer.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


@given(texts=st.lists(TEXTS.filter(bool), min_size=1, max_size=4), side=st.sampled_from(["left", "right"]))
@settings(max_examples=100, deadline=None)
def test_batches_are_padded_as_the_references(
    tokenizer: Tokenizer, reference: Any, texts: list[str], side: Side
) -> None:
    wanted = reference(texts, padding=True, padding_side=side, return_tensors="pt")
    ids, mask = tokenizer.pad([tokenizer.encode(text) for text in texts], side)
    assert torch.equal(ids, wanted["input_ids"])
    assert torch.equal(mask, wanted["attention_mask"])


def test_padding_is_the_token_of_the_config(tokenizer: Tokenizer, copy: Path) -> None:
    assert tokenizer.pad_id == tokenizer.id_of("<|endoftext|>")
    assert tokenizer.pad([[1], [2, 3]], "right")[0].tolist() == [[1, tokenizer.pad_id], [2, 3]]
    assert tokenizer.pad([[1], [2, 3]], "left")[1].tolist() == [[0, 1], [1, 1]]
    change(copy / "tokenizer_config.json", pad_token={"content": "<|im_end|>", "special": True})
    assert Tokenizer.from_folder(copy).pad_id == tokenizer.id_of("<|im_end|>")
    with pytest.raises(InputError, match="padding_side is 'top'; use 'left' or 'right'"):
        tokenizer.pad([[1]], "top")  # type: ignore[arg-type]


def test_nothing_is_truncated_or_padded_whatever_the_file_says(tokenizer: Tokenizer, copy: Path) -> None:
    change(
        copy / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 99},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    )
    text = "a longer text than three tokens"
    assert Tokenizer.from_folder(copy).encode(text) == tokenizer.encode(text)
    assert len(tokenizer.encode(text)) > 3


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(
        InputError, match=rf"lone surrogate U\+{ord(max(text)):04X} at character {text.index(max(text))}"
    ):
        tokenizer.encode(text)


def test_ids_that_cannot_be_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, 2**32):
        with pytest.raises(InputError, match=f"no token {wrong}"):
            tokenizer.decode([5, wrong])
    assert tokenizer.decode(torch.tensor([5, 6]).tolist()) == tokenizer.decode(list(torch.tensor([5, 6])))


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("tokenizer_config.json", {"pad_token": None}, r"tokenizer_config\.json: pad_token is None"),
        (
            "tokenizer_config.json",
            {"pad_token": "[PAD]"},
            r"pad_token is '\[PAD\]', which is not a token of .*tokenizer\.json",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"3": {"content": "<new>"}}},
            "'<new>' as 3, but in .* its id is None",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"3": {"content": "<|im_end|>"}}},
            r"'<\|im_end\|>' as 3, but in ",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": [1]},
            r"added_tokens_decoder is \[1\]; it must be an object",
        ),
        ("tokenizer.json", {"added_tokens": []}, r"tokenizer.*pad_token is '<\|endoftext\|>', which is not a token"),
        ("tokenizer.json", {"model": {"type": "none"}}, r"tokenizer\.json is not a tokenizer"),
    ],
)
def test_files_that_do_not_fit_are_named(copy: Path, name: str, fields: dict[str, Any], why: str) -> None:
    change(copy / name, **fields)
    with pytest.raises(ConfigError, match=why):
        Tokenizer.from_folder(copy)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
def test_a_tokenizer_without_vision_tokens_is_refused(copy: Path, token: str) -> None:
    raw = json.loads((copy / "tokenizer.json").read_text())
    change(copy / "tokenizer.json", added_tokens=[entry for entry in raw["added_tokens"] if entry["content"] != token])
    with pytest.raises(ConfigError, match=r"has no token <\|.*; is it a tokenizer of Qwen3-VL"):
        Tokenizer.from_folder(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_missing_and_broken_files_are_named(copy: Path, name: str) -> None:
    (copy / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        Tokenizer.from_folder(copy)
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=name):
        Tokenizer.from_folder(copy)


@given(text=TEXTS, skip=st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_stream_of_a_text_never_shows_half_a_character(tokenizer: Tokenizer, text: str, skip: bool) -> None:
    ids = tokenizer.encode(text)
    stream = tokenizer.stream(skip_special_tokens=skip)
    pieces = [stream.push(token) for token in ids]
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(pieces) + stream.end() == whole
    if "\ufffd" not in whole:
        assert "\ufffd" not in "".join(pieces)
        assert "".join(pieces) == whole, "nothing is held back once all characters are whole"


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_a_stream_of_any_ids_adds_up_to_their_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    # Mostly single bytes: cut-off characters, stray continuations, overlong forms, in any order.
    ids = data.draw(st.lists(st.one_of(st.integers(128, 255), st.integers(0, 690)), max_size=16))
    stream, out = tokenizer.stream(), ""
    for place, token in enumerate(ids):
        out += stream.push(token)
        assert tokenizer.decode(ids[: place + 1]).startswith(out)
        assert tokenizer.decode(ids).startswith(out), "what is out is never taken back"
        assert len(tokenizer.decode(ids[: place + 1])) - len(out) <= 1, "at most one character is held back"
    assert out + stream.end() == tokenizer.decode(ids)
    assert stream.end() == ""


def test_a_stream_holds_a_character_back_until_it_is_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🐈b")
    assert len(ids) == 6, "the cat is four tokens of a byte"
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == ["a", "", "", "", "🐈", "b"]
    cut = tokenizer.stream()
    assert [cut.push(token) for token in ids[:3]] == ["a", "", ""]
    assert cut.end() == "\ufffd"
