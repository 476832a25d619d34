"""A small byte-level BPE tokenizer with Qwen's pre-tokenizer and special tokens. Its files are always the same.

It is trained on `data/corpus.txt`. This module writes the files itself, so that they don't depend on the version of
the tokenizers library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

MERGES = 400
"""How many merges are learnt. With the 256 bytes, ids 0..655 are plain tokens."""

PRE_TOKEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pattern that cuts text into pieces before bytes are merged. Every digit is a piece of its own."""

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Tokens that `skip_special_tokens` drops when decoding. Their ids follow this order."""

MARKER_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Single tokens that stay in decoded text. Their ids follow those of the control tokens."""

SPECIAL_TOKENS = CONTROL_TOKENS + MARKER_TOKENS


@dataclass(frozen=True)
class TokenizerParts:
    """The parts of a tokenizer: `vocab` maps a token to its id, `merges` are pairs in order of priority."""

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    special_ids: dict[str, int]

    @property
    def size(self) -> int:
        """Number of ids, with special tokens: the smallest vocab_size that a model may have."""
        return len(self.vocab) + len(self.special_ids)


def json_bytes(value: Any) -> bytes:
    """Return indented ASCII JSON with a final newline. Keys stay in their order."""
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def corpus() -> list[str]:
    """Return the training sentences, one per line: English, code and eight other languages."""
    text = files("reference").joinpath("data/corpus.txt").read_text(encoding="utf-8")
    return text.splitlines()


@lru_cache(maxsize=2)
def _trained(
    sentences: tuple[str, ...], wanted: int
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]:
    """Learn from sentences. Returns the vocabulary (token, id) without special tokens, and ``wanted`` merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + wanted,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer=trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if len(model["merges"]) != wanted:
        raise ValueError(f"the corpus yields {len(model['merges'])} merges, but {wanted} are needed; give it more text")
    vocab = sorted(model["vocab"].items(), key=lambda item: item[1])
    return tuple(vocab), tuple((left, right) for left, right in model["merges"])


def tokenizer_parts(
    *, special_base: int | None = None, sentences: Sequence[str] | None = None, merges: int = MERGES
) -> TokenizerParts:
    """Train the tokenizer (once per process) and add the special tokens.

    Args:
        sentences: the training text; None: `corpus()`.
        merges: how many merges to learn.
        special_base: id of `<|endoftext|>`; None puts the special tokens right after the last merge. With a higher
            base, such as the published 151643, the gap is filled with tokens that no text encodes to.

    Raises:
        ValueError: `special_base` is the id of a plain token, or the sentences yield fewer merges.
    """
    trained, learnt = _trained(tuple(corpus() if sentences is None else sentences), merges)
    vocab = dict(trained)
    base = len(vocab) if special_base is None else special_base
    if base < len(vocab):
        raise ValueError(f"special_base {base} falls among the {len(vocab)} plain tokens; use {len(vocab)} or more")
    for index in range(len(vocab), base):
        vocab[f"[unused{index}]"] = index
    special_ids = {token: base + offset for offset, token in enumerate(SPECIAL_TOKENS)}
    return TokenizerParts(vocab=vocab, merges=list(learnt), special_ids=special_ids)


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": content in CONTROL_TOKENS,
    }


def _tokenizer_json(parts: TokenizerParts) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {
        "type": "Split",
        "pattern": {"Regex": PRE_TOKEN_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **_added_token(token)} for token, index in parts.special_ids.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": parts.vocab,
            "merges": [f"{left} {right}" for left, right in parts.merges],
        },
    }


def _tokenizer_config(parts: TokenizerParts, *, chat_template: str, max_length: int) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): _added_token(token) for token, index in parts.special_ids.items()},
        "additional_special_tokens": list(CONTROL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": max_length,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def tokenizer_files(parts: TokenizerParts, *, chat_template: str, max_length: int) -> dict[str, bytes]:
    """Return the tokenizer's files by name, for transformers 4.57 and 5 and for the tokenizers crate.

    Args:
        parts: from `tokenizer_parts`.
        chat_template: Jinja text, stored in `tokenizer_config.json`.
        max_length: `model_max_length` in tokens.
    """
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in parts.merges)
    config = _tokenizer_config(parts, chat_template=chat_template, max_length=max_length)
    return {
        "tokenizer.json": json_bytes(_tokenizer_json(parts)),
        "tokenizer_config.json": json_bytes(config),
        "vocab.json": json_bytes(parts.vocab),
        "merges.txt": merges.encode(),
    }
