"""The checkpoint's tokenizer: text to ids and back, at once or as a stream.

Shape legend
    B, S   rows, tokens of the longest row
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tokenizers
import torch
from torch import Tensor

from port.errors import ConfigError, InputError
from port.json_fields import Fields, read_text, shown

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
_NO_CHARACTER = "\ufffd"


class Tokenizer:
    """``tokenizer.json`` with the padding token of ``tokenizer_config.json``. It never truncates."""

    def __init__(self, backend: tokenizers.Tokenizer, pad_id: int, source: str) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self.pad_id, self.source = backend, pad_id, source

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Raises ConfigError if a file is missing or broken, lacks a token, or contradicts the other file."""
        path, settings = Path(folder) / "tokenizer.json", Path(folder) / "tokenizer_config.json"
        text = read_text(path)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises its errors as plain Exception
            raise ConfigError(f"{path} is not a tokenizer: {error}; download it again") from None
        fields = Fields.read(settings)
        pad = fields.raw.get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        pad_id = backend.token_to_id(pad) if isinstance(pad, str) else None
        if pad_id is None:
            raise ConfigError(
                f"{fields.at('pad_token')} is {shown(pad)}, which is not a token of {path}; Qwen3-VL's is {END_OF_TEXT}"
            )
        tokenizer = cls(backend, pad_id, str(path))
        for token in (IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END):
            tokenizer.id_of(token)
        if fields.has("added_tokens_decoder"):
            _check_added(backend, fields.section("added_tokens_decoder"), path)
        return tokenizer

    def id_of(self, token: str) -> int:
        """The id of a token. Raises ConfigError if there is no such token."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise ConfigError(f"{self.source} has no token {token}; is it a tokenizer of Qwen3-VL?")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Names of special tokens in it become those tokens. Raises InputError as ``check_unicode``."""
        check_unicode(text, "the text")
        return self._backend.encode(text).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids. Bytes that are not UTF-8 become U+FFFD. Raises InputError for ids that cannot exist."""
        ids = [int(token) for token in ids]
        outside = [token for token in ids if not 0 <= token < 2**32]
        if outside:
            raise InputError(f"there is no token {outside[0]}; only ids of {self.source} can be decoded")
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def pad(self, rows: Sequence[Sequence[int]], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask (B, S) int64 of rows that may differ in length."""
        if side not in ("left", "right"):
            raise InputError(f"padding_side is {side!r}; use 'left' or 'right'")
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            part = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
            ids[index, part] = torch.tensor(row, dtype=torch.long)
            mask[index, part] = 1
        return ids, mask

    def stream(self, *, skip_special_tokens: bool = True) -> TokenStream:
        """A decoder for ids that come one at a time."""
        return TokenStream(self, skip_special_tokens=skip_special_tokens)


class TokenStream:
    """Text piece by piece: what ``push`` and finally ``end`` return adds up to ``Tokenizer.decode`` of all ids.

    A character whose bytes span several tokens is held back until it is complete. Until then the decoded text ends
    with U+FFFD, which stands for the incomplete bytes.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._waiting: list[int] = []  # tokens since the last one that ended with a complete character
        self._sent = 0  # how many characters of their text have been returned

    def push(self, token_id: int) -> str:
        """The text that this token completes, empty if it completes none."""
        self._waiting.append(token_id)
        text = self._text()
        if not text.endswith(_NO_CHARACTER):
            return self._out(text)
        piece = text[self._sent : -1]
        self._sent += len(piece)
        return piece

    def end(self) -> str:
        """What is still held back: U+FFFD for an incomplete character, otherwise nothing."""
        return self._out(self._text())

    def _text(self) -> str:
        return self._tokenizer.decode(self._waiting, skip_special_tokens=self._skip)

    def _out(self, text: str) -> str:
        piece = text[self._sent :]
        self._waiting, self._sent = [], 0
        return piece


def check_unicode(text: str, name: str) -> None:
    """Raise InputError for a lone surrogate: half of a character in UTF-16, which UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is not a "
            "character; decode the text as UTF-8"
        ) from None


def _check_added(backend: tokenizers.Tokenizer, added: Fields, path: Path) -> None:
    """The reference adds the tokens that ``tokenizer_config.json`` lists; here they must be in ``tokenizer.json``."""
    for key, token in added.raw.items():
        content = token.get("content") if isinstance(token, dict) else token
        found = backend.token_to_id(content) if isinstance(content, str) else None
        if str(found) != key:
            raise ConfigError(
                f"{added.where} has {shown(content)} as {key}, but in {path} its id is {found}; download both again"
            )
