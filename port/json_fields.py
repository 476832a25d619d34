"""Reading the JSON files of a checkpoint, with bounded memory and time, and the fields in them."""

from __future__ import annotations

import json
import math
import reprlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from port.errors import ConfigError

# The size limit of one file. The largest one published for Qwen3-VL is tokenizer.json with about 11 MB.
MAX_BYTES = 32 * 2**20

# The largest int64. Larger integers do not fit into tensors and may overflow in arithmetic with floats.
_MAX_INTEGER = 2**63 - 1
# Values are shortened in error messages, because a file may hold a list of a million numbers.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises ConfigError if the file is missing, cannot be read, is not a regular file (reading a pipe or a device
    could block or never end), has more than ``MAX_BYTES`` bytes, or is not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a regular file; put the file from the checkpoint there")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give the folder of a complete Qwen3-VL checkpoint") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}; give the folder of a Qwen3-VL checkpoint") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES:,} bytes, the most that is read; download it again")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}; download it again") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ConfigError as ``read_text``, and if there is no object in it."""
    text = read_text(path)
    try:
        raw = json.loads(text)
    # RecursionError: nested too deeply. ValueError: not JSON, or an integer with more digits than Python converts.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}; download it again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds a {type(raw).__name__}, not an object; download it again")
    return raw


def shown(value: object) -> str:
    """``repr`` for error messages, shortened if it is long."""
    return _SHORT.repr(value)


def is_integer(value: object, *, minimum: int) -> TypeGuard[int]:
    """Whether it is a whole number from ``minimum`` to 2^63 - 1. True and false are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= _MAX_INTEGER


class Fields:
    """The fields of one JSON object, each with its type checked.

    A field that is null counts as missing. Every method that returns a value raises ConfigError for a field that is
    missing without a default and for a value of the wrong type or outside its bounds. The message names the file, the
    field, the value found and what is needed. ``where`` is the file, or the file and the section.
    """

    def __init__(self, raw: Mapping[str, Any], where: str, *, inner: bool = False) -> None:
        self.raw, self.where, self._inner = raw, where, inner

    @classmethod
    def read(cls, path: Path) -> Fields:
        """The fields of a file. Raises ConfigError as ``read_object``."""
        return cls(read_object(path), str(path))

    def at(self, name: str) -> str:
        """File and field, as messages name them: ``config.json: text_config.head_dim``."""
        return f"{self.where}{'.' if self._inner else ': '}{name}"

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(name) is not None

    def value(self, name: str) -> Any:
        """The field, of whatever type."""
        if not self.has(name):
            raise ConfigError(
                f"{self.at(name)} is missing and has no default; add it with the value that the checkpoint was "
                "trained with"
            )
        return self.raw[name]

    def wrong(self, name: str, needed: str) -> ConfigError:
        """The error for a field that has another value than is needed."""
        return ConfigError(f"{self.at(name)} is {shown(self.raw[name])}; it must be {needed}")

    def section(self, name: str) -> Fields:
        """The fields of an object inside this one."""
        value = self.value(name)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return Fields(value, self.at(name), inner=True)

    def require(self, name: str, only: str | bool | int) -> None:
        """Raise ConfigError unless the field has the only value that is supported."""
        value = self.value(name)
        if value != only or isinstance(value, bool) is not isinstance(only, bool):
            raise self.wrong(name, f"{only!r}, the only value that is supported")

    def string(self, name: str) -> str:
        value = self.value(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        if default is not None and not self.has(name):
            return default
        value = self.value(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integer(self, name: str, *, minimum: int = 1, maximum: int | None = None, default: int | None = None) -> int:
        if default is not None and not self.has(name):
            return default
        value = self.value(name)
        if not is_integer(value, minimum=minimum):
            raise self.wrong(name, f"a whole number of at least {minimum} and below 2^63")
        if maximum is not None and value > maximum:
            raise self.wrong(name, f"at most {maximum:,}")
        return value

    def integers(self, name: str, *, minimum: int) -> tuple[int, ...]:
        value = self.value(name)
        if not isinstance(value, list | tuple) or not all(is_integer(item, minimum=minimum) for item in value):
            raise self.wrong(name, f"a list of whole numbers of at least {minimum} and below 2^63")
        return tuple(value)

    def number(self, name: str, *, above: float | None = None, default: float | None = None) -> float:
        """A finite number as a float."""
        if default is not None and not self.has(name):
            return default
        number = _finite(self.value(name), above)
        if number is None:
            raise self.wrong(name, f"a finite number{_above(above)}")
        return number

    def three_numbers(self, name: str, *, above: float | None = None) -> tuple[float, float, float]:
        """A list of three finite numbers, one for each channel of a picture."""
        value = self.value(name)
        numbers = [_finite(item, above) for item in value] if isinstance(value, list | tuple) else []
        match numbers:
            case [float() as first, float() as second, float() as third]:
                return first, second, third
        raise self.wrong(name, f"a list of three finite numbers{_above(above)}")


def _finite(value: object, above: float | None) -> float | None:
    """The value as a float, or None if it is not a finite number or not above the bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the range of floats
        return None
    return number if math.isfinite(number) and (above is None or number > above) else None


def _above(bound: float | None) -> str:
    return "" if bound is None else f" above {bound:g}"
