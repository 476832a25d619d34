"""The checkpoint's chat template: conversations to text, in a sandbox with bounded time, memory and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.errors import ConfigError, InputError
from port.json_fields import read_object, read_text
from port.limits import DEFAULT_LIMITS, Limits
from port.sandbox import Sandbox, SandboxError

Message = Mapping[str, Any]
_MAX_TEMPLATE = 1_000_000  # characters; the published one has some 5,000
# In the order in which the reference looks; where a folder has several, the first counts and the others do not.
_PLACES = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled template. ``source`` says where it is from, ``special`` are the tokens that it may write by name."""

    def __init__(
        self, text: str, source: str, limits: Limits = DEFAULT_LIMITS, *, special: Mapping[str, str] | None = None
    ) -> None:
        self.source, self.limits, self.special = source, limits, dict(special or {})
        if len(text) > _MAX_TEMPLATE:
            raise ConfigError(f"the chat template of {source} has {len(text):,} characters, at most {_MAX_TEMPLATE:,}")
        try:
            self._sandbox = Sandbox(text, limits)
        except SandboxError as error:
            raise ConfigError(f"the chat template of {source} {error}") from None

    @classmethod
    def from_folder(cls, folder: Path | str, limits: Limits = DEFAULT_LIMITS) -> ChatTemplate:
        """The template that the reference's processor uses.

        That is the field ``chat_template`` of processor_config.json, else that of chat_template.json, else
        chat_template.jinja; the older file goes before the newer one, transformers looks in this order. Last comes
        tokenizer_config.json, where the reference's tokenizer looks and its processor gives up. Raises ConfigError
        where there is none, or the first that is there cannot be read.
        """
        folder = Path(folder)
        special = _special_tokens(folder / "tokenizer_config.json")
        for name in _PLACES:
            path = folder / name
            if path.is_file():
                text = read_text(path) if path.suffix == ".jinja" else _template_of(path)
                if text is not None:
                    return cls(text, str(path), limits, special=special)
        raise ConfigError(
            f"{folder} has no chat template: chat_template.jinja, or the field chat_template in chat_template.json or "
            "tokenizer_config.json; copy it from the published checkpoint"
        )

    def render(
        self,
        conversation: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt.

        ``tools`` are JSON schemas, ``variables`` whatever else the template reads, such as ``add_vision_id``. The
        template gets copies in JSON's types: tuples as lists, pictures and the like as the name of their type. Raises
        InputError for what JSON cannot hold or the template refuses, and where it asks for too much.
        """
        try:
            given = {
                **self.special,
                **plain(variables or {}),
                "messages": [_with_reasoning(plain(message)) for message in conversation],
                "add_generation_prompt": add_generation_prompt,
                "tools": plain(tools),
                "documents": None,
            }
            return self._sandbox.render(given)
        except SandboxError as error:
            raise InputError(f"the chat template of {self.source} {error}") from None
        except (RecursionError, TypeError, ValueError) as error:
            raise InputError(f"what is given to the chat template of {self.source} is not JSON: {error}") from None


def plain(value: Any) -> Any:
    """A deep copy in JSON's types: nothing with methods of its own reaches a template. The rest becomes ``<type>``.

    Raises TypeError for keys that are not strings, and RecursionError for what is nested too deep or holds itself.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r:.100} is a {type(key).__name__}; use a string")
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(plain, value))
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    return None if value is None else f"<{type(value).__name__}>"


def _template_of(path: Path) -> str | None:
    """The field ``chat_template``, or the default of several templates; None where the file has none."""
    found = read_object(path).get("chat_template")
    if isinstance(found, list):  # several with names
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named
    if isinstance(found, dict):
        if not isinstance(found.get("default"), str):
            raise ConfigError(f"{path}: chat_template holds {sorted(map(str, found))}, none of them named 'default'")
        found = found["default"]
    if found is not None and not isinstance(found, str):
        raise ConfigError(f"{path} has a chat_template of type {type(found).__name__}, expected a string")
    return found


def _special_tokens(path: Path) -> dict[str, str]:
    """Special tokens by the names under which templates know them, such as ``eos_token``."""
    if not path.is_file():
        return {}
    raw, found = read_object(path), {}
    for name in _SPECIAL:
        token = raw.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return found


def _with_reasoning(message: Any) -> Any:
    """As the reference: without the keys that are None, and with reasoning under both names that templates read."""
    if not isinstance(message, dict):
        return message
    message = {key: value for key, value in message.items() if value is not None}
    given = next((message[name] for name in _REASONING if name in message), None)
    return message if given is None else {"thinking": given, **message, "reasoning_content": given}
