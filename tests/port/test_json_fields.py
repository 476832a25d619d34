"""JSON files: every kind of bad file is refused at once, and every bad field is named with its value."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from port import ConfigError, GenerationConfig, PortError, Processor, Qwen3VLConfig, WeightsError, load_model
from port.json_fields import MAX_BYTES, Fields, is_integer, read_object, read_text, shown
from port.pixel_config import BOTH_FILE, PictureConfig, VideoConfig
from port.tokenizer import Tokenizer
from port.weights import INDEX_FILE

# A read that blocks or never ends fails soon.
pytestmark = pytest.mark.timeout(60)


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(f"{path}.pipe")
    path.symlink_to(f"{path}.pipe")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def _too_large(path: Path) -> None:
    path.write_bytes(b'{"a": 1}' + b" " * (MAX_BYTES - 7))


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)  # a sparse file: more than the machine's memory, and no room on its disk


def _holding(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (_folder, "is not a regular file"),
    "pipe": (_pipe, "is not a regular file"),
    "link to a pipe": (_link_to_pipe, "is not a regular file"),
    "link to itself": (_link_to_itself, "cannot be read"),
    "too large": (_too_large, f"has more than {MAX_BYTES:,} bytes"),
    "huge": (_huge, f"has more than {MAX_BYTES:,} bytes"),
    "not UTF-8": (_holding(b'{"a": "\xff"}'), "is not UTF-8 text: .*position 7"),
    "UTF-16": (_holding("{}".encode("utf-16")), "is not UTF-8 text"),
    "empty": (_holding(b""), "is not valid JSON"),
    "cut off": (_holding(b'{"a": [1'), "is not valid JSON: .*column 9"),
    "two objects": (_holding(b"{}{}"), "is not valid JSON"),
    "deep lists": (_holding(b"[" * 100_000 + b"]" * 100_000), "is not valid JSON: .*recursion"),
    "deep objects": (_holding(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "is not valid JSON: .*recursion"),
    "long integer": (_holding(b'{"a": ' + b"9" * 5000 + b"}"), "is not valid JSON: .*digits"),
    "list": (_holding(b"[1]"), "holds a list, not an object"),
    "string": (_holding(b'"a"'), "holds a str, not an object"),
    "null": (_holding(b"null"), "holds a NoneType, not an object"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_path_and_the_reason(tmp_path: Path, name: str) -> None:
    make, why = BAD_FILES[name]
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(ConfigError, match=why) as caught:
        read_object(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"a\.json cannot be read: .*Not a directory"):
        read_object(tmp_path / "file" / "a.json")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this platform has no /dev/zero")
@pytest.mark.parametrize("linked", [False, True])
def test_an_endless_device_is_refused_at_once(tmp_path: Path, linked: bool) -> None:
    path = Path("/dev/zero")
    if linked:
        path = tmp_path / "a.json"
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_text(path)


def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    assert read_object(path) == {}

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a file mode would not stop the superuser
    with pytest.raises(ConfigError, match=r"a\.json cannot be read: .*Permission denied"):
        read_object(path)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": 1}' + b" " * (MAX_BYTES - 8))
    assert read_object(path) == {"a": 1}


def test_what_a_file_holds_comes_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"größe": "🐈", "n": [1, 2.5, null]}\r\n'.encode())
    assert read_text(path).endswith("\r\n")
    assert read_object(path) == {"größe": "🐈", "n": [1, 2.5, None]}


READERS: dict[str, tuple[Callable[[Path], object], type[PortError]]] = {
    "config.json": (Qwen3VLConfig.from_folder, ConfigError),
    "generation_config.json": (GenerationConfig.from_folder, ConfigError),
    "preprocessor_config.json": (PictureConfig.from_folder, ConfigError),
    "video_preprocessor_config.json": (VideoConfig.from_folder, ConfigError),
    BOTH_FILE: (PictureConfig.from_folder, ConfigError),
    "tokenizer.json": (Tokenizer.from_folder, ConfigError),
    "tokenizer_config.json": (Tokenizer.from_folder, ConfigError),
    "chat_template.json": (Processor.load, ConfigError),
    INDEX_FILE: (load_model, WeightsError),
}


@pytest.mark.parametrize("kind", ["too large", "huge", "not UTF-8", "deep objects", "long integer", "list"])
@pytest.mark.parametrize("name", READERS)
def test_every_file_of_a_checkpoint_is_read_with_the_same_care(copy: Path, name: str, kind: str) -> None:
    read, error = READERS[name]
    (copy / name).unlink(missing_ok=True)
    BAD_FILES[kind][0](copy / name)
    with pytest.raises(error, match=name.replace(".", r"\.")):
        read(copy)


@pytest.mark.parametrize("name", [name for name in READERS if name != "chat_template.json"])
def test_no_reader_waits_for_a_pipe(copy: Path, name: str) -> None:
    read, error = READERS[name]
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(error, match=f"{name} is not a regular file"):
        read(copy)


Get = Callable[[Fields], object]
DIGITS = 10**400  # Python reads an integer of 401 digits, but no float holds it

# How a field is read, values that are taken (with what comes out), values that are refused, and what is needed.
KINDS: dict[str, tuple[Get, list[tuple[Any, Any]], list[Any], str]] = {
    "string": (lambda f: f.string("x"), [("", ""), ("a", "a")], [1, True, ["a"], {}], "a string"),
    "flag": (lambda f: f.flag("x"), [(True, True), (False, False)], [0, 1, "true", []], "true or false"),
    "integer": (
        lambda f: f.integer("x"),
        [(1, 1), (2**63 - 1, 2**63 - 1)],
        [0, -1, True, 1.0, "1", [1], 2**63, DIGITS],
        "a whole number of at least 1 and below 2^63",
    ),
    "integer from 0": (lambda f: f.integer("x", minimum=0), [(0, 0)], [-1, False], "a whole number of at least 0"),
    "integers": (
        lambda f: f.integers("x", minimum=0),
        [([], ()), ([0, 5], (0, 5))],
        [5, "5", [-1], [True], [1.0], [None], {"a": 1}, [DIGITS]],
        "a list of whole numbers of at least 0",
    ),
    "number": (
        lambda f: f.number("x"),
        [(0, 0.0), (-2.5, -2.5)],
        [True, "1", [1], math.inf, -math.inf, math.nan, DIGITS, -DIGITS],
        "a finite number",
    ),
    "number above 0": (
        lambda f: f.number("x", above=0),
        [(1e-300, 1e-300), (3, 3.0)],
        [0, -0.0, -1, math.nan, math.inf, DIGITS],
        "a finite number above 0",
    ),
    "three numbers": (
        lambda f: f.three_numbers("x"),
        [([0, -1, 2.5], (0.0, -1.0, 2.5))],
        [0.5, [], [1, 2], [1, 2, 3, 4], [1, 2, "3"], [1, 2, True], [1, 2, math.nan], [1, 2, DIGITS], "abc"],
        "a list of three finite numbers",
    ),
    "three numbers above 0": (
        lambda f: f.three_numbers("x", above=0),
        [([1, 2, 3], (1.0, 2.0, 3.0))],
        [[1, 2, 0], [1, -2, 3]],
        "a list of three finite numbers above 0",
    ),
    "section": (lambda f: f.section("x").raw, [({}, {}), ({"a": 1}, {"a": 1})], [[], "a", 1, True], "an object"),
    "the only string": (lambda f: f.require("x", "a"), [("a", None)], ["b", 1, ["a"]], "'a', the only value"),
    "only true": (lambda f: f.require("x", True), [(True, None)], [False, 1, "true"], "True, the only value"),
    "the only number": (lambda f: f.require("x", 1), [(1, None), (1.0, None)], [True, 2, "1"], "1, the only value"),
    "anything": (lambda f: f.value("x"), [(0, 0), ("", ""), (False, False)], [], ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_have_the_value_of_the_file_or_are_refused_with_it(kind: str) -> None:
    get, good, bad, needed = KINDS[kind]
    for value, wanted in good:
        found = get(Fields({"x": value}, "a.json"))
        assert (found, type(found)) == (wanted, type(wanted))
    for value in bad:
        for fields, place in (
            (Fields({"x": value}, "a.json"), "a.json: x"),
            (Fields({"s": {"x": value}}, "a.json").section("s"), "a.json: s.x"),
            (Fields({"s": {"t": {"x": value}}}, "a.json").section("s").section("t"), "a.json: s.t.x"),
        ):
            with pytest.raises(ConfigError) as caught:
                get(fields)
            assert str(caught.value).startswith(f"{place} is {shown(value)}; it must be {needed}"), caught.value
    for raw in ({}, {"x": None}):
        with pytest.raises(ConfigError, match=r"^a\.json: x is missing and has no default; add it"):
            get(Fields(raw, "a.json"))


@pytest.mark.parametrize("raw", [{}, {"x": None}])
def test_a_default_stands_in_for_a_missing_field_alone(raw: dict[str, Any]) -> None:
    fields = Fields(raw, "a.json")
    assert not fields.has("x")
    assert fields.flag("x", default=False) is False
    assert fields.integer("x", minimum=0, default=0) == 0
    assert fields.number("x", default=0.0) == 0.0
    there = Fields({"x": "wrong"}, "a.json")
    assert there.has("x")
    for get in (lambda: there.flag("x", default=False), lambda: there.number("x", default=0.0)):
        with pytest.raises(ConfigError, match="x is 'wrong'"):
            get()
    with pytest.raises(ConfigError, match="x is 'wrong'"):
        there.integer("x", default=0)


def test_a_value_that_is_there_goes_before_the_default() -> None:
    fields = Fields({"flag": True, "integer": 5, "number": 0.5}, "a.json")
    assert fields.flag("flag", default=False) is True
    assert fields.integer("integer", default=7) == 5
    assert fields.number("number", default=7.0) == 0.5


def test_long_values_are_cut_in_messages() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    for value in (list(range(10**6)), "x" * 10**6, {str(key): key for key in range(10**5)}, 10**4000, deep):
        assert len(shown(value)) < 200
        with pytest.raises(ConfigError) as caught:
            Fields({"x": value}, "a.json").flag("x")
        assert len(str(caught.value)) < 300
    assert shown([1, "a", None]) == "[1, 'a', None]"
    assert is_integer(3, minimum=3)
