"""The report document: validate, save, load.

A document is a plain JSON-able dict of one of the kinds in :mod:`reports.kinds`. Its shape is in
``schema/<kind>.schema.json``; what several kinds share is in ``schema/shared.schema.json``. What a JSON Schema
cannot say (an index that must point into a list, a grid that must fit its rows) is checked by the kind itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from reports.atomic import write_bytes
from reports.errors import ReportError
from reports.formatting import visible
from reports.kinds import KINDS

__all__ = ["KINDS", "Document", "ReportError", "dumps", "load", "save", "schema", "validate"]

Document = dict[str, Any]
_SHOWN = 5  # faults named in one message
# json escapes the control characters below 32 alone; these could control a terminal as well.
_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of document, with every reference replaced by what it refers to."""
    if kind not in KINDS:
        raise ReportError(f"there is no report document of kind {kind!r}; the kinds are {', '.join(KINDS)}")
    made = _read_schema(kind)
    whole: dict[str, Any] = _expanded(made, home=made, shared=_read_schema("shared"))
    return whole


def validate(document: Mapping[str, Any], *, source: str = "report document") -> None:
    """Raise ReportError for a document that is not valid; it names the JSON path, what is there and what should be."""
    faults = list(_unfit_values(document, path="$"))
    if not faults:
        kind = document.get("kind") if isinstance(document, Mapping) else None
        if kind not in KINDS:
            faults = [f"$.kind is {_show(kind)}, expected one of {_show(list(KINDS))}"]
        else:
            errors = sorted(_validator(str(kind)).iter_errors(document), key=_place)
            faults = [fault for error in errors for fault in _explain(error)]
            # Only a document of the right shape can be asked whether it agrees with itself.
            faults = faults or list(KINDS[str(kind)].contradictions(document))
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        # Names in it may come from anywhere, and the message is printed to a terminal.
        raise ReportError(visible(f"{source} is not valid:\n  " + "\n  ".join(faults[:_SHOWN]) + more))


def dumps(document: Mapping[str, Any]) -> bytes:
    """The document as UTF-8 JSON. NaN and Infinity are refused, because JSON cannot express them."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return (text.translate(_ESCAPED) + "\n").encode("utf-8")


def save(document: Mapping[str, Any], *, path: Path) -> Path:
    """Validate a document and write it atomically."""
    validate(document)
    write_bytes(path, data=dumps(document))
    return path


def load(path: Path) -> Document:
    """Read and validate a saved document."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ReportError(f"{path} does not exist; name the JSON file of a report") from error
    except IsADirectoryError as error:
        raise ReportError(f"{path} is a folder; name the JSON file inside it") from error
    except UnicodeDecodeError as error:
        raise ReportError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror or error}") from error

    def refuse(word: str) -> NoReturn:
        raise ReportError(f"{path} holds {word}, which is not JSON; write null and say why in a note")

    try:
        document: Document = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ReportError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}; "
            "if it was cut short, run the case again"
        ) from error
    except ValueError as error:
        raise ReportError(f"{path} cannot be read as JSON: {error}") from error
    except RecursionError as error:
        raise ReportError(f"{path} is nested too deeply to be a report document") from error
    validate(document, source=str(path))
    return document


@cache
def _read_schema(name: str) -> dict[str, Any]:
    text = resources.files("reports").joinpath("schema", f"{name}.schema.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def _expanded(node: Any, *, home: Mapping[str, Any], shared: Mapping[str, Any]) -> Any:
    # Following references during a validation takes several times as long as the rest of it.
    if isinstance(node, list):
        return [_expanded(item, home=home, shared=shared) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        file, _, name = node["$ref"].rpartition("#/$defs/")
        home = shared if file == shared["$id"] else home
        return _expanded(home["$defs"][name], home=home, shared=shared)
    return {key: _expanded(item, home=home, shared=shared) for key, item in node.items() if key != "$defs"}


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(schema(kind))


def _place(error: ValidationError) -> list[str]:
    # Padded, so that findings[2] comes before findings[10].
    return [f"{part:09d}" if isinstance(part, int) else part for part in error.absolute_path]


def _unfit_values(value: object, *, path: str) -> Iterator[str]:
    """What json.dumps would refuse, or would write as something else, each with its path."""
    if value is None or isinstance(value, bool):
        return
    # type(), not isinstance(): numpy.float64 is a float, numpy.str_ a str, and neither belongs in JSON.
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                yield f"{path} has the key {key!r} of type {type(key).__name__}, expected str"
            yield from _unfit_values(item, path=f"{path}.{key}")
    elif type(value) is list:
        for number, item in enumerate(value):
            yield from _unfit_values(item, path=f"{path}[{number}]")
    elif type(value) is float:
        if not math.isfinite(value):
            word = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            yield f"{path} is {word}, expected a finite number; write null and say why in a note"
    elif type(value) is str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            yield f"{path} holds a lone surrogate at character {error.start}, expected text that UTF-8 can encode"
    elif type(value) is not int:
        yield (
            f"{path} is a {type(value).__module__}.{type(value).__name__}, expected a plain JSON value "
            "(dict, list, str, int, float, bool, None)"
        )


def _explain(error: ValidationError) -> Iterator[str]:
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    found: Any = error.instance
    wanted: Any = error.validator_value
    rule = error.validator
    if rule == "required":
        # jsonschema yields one error for each missing key and names it only in the message.
        for key in wanted:
            if error.message.startswith(repr(key)):
                yield f"{path}.{key} is missing, expected {_describe(error.schema, key=key)}"
    elif rule == "additionalProperties" and wanted is False:
        known = error.schema["properties"] if isinstance(error.schema, Mapping) else {}
        for key in found:
            if key not in known:
                yield f"{path}.{key} is not a field of the schema, expected only {', '.join(known)}"
    elif rule == "type":
        names = " or ".join([wanted] if isinstance(wanted, str) else wanted)
        yield f"{path} is {_show(found)}, expected {names}"
    elif rule == "enum":
        yield f"{path} is {_show(found)}, expected one of {_show(wanted)}"
    elif rule == "const":
        yield f"{path} is {_show(found)}, expected {_show(wanted)}"
    elif rule == "pattern":
        described = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
        yield f"{path} is {_show(found)}, expected {described or 'text that matches ' + str(wanted)}"
    else:
        words = {
            "minimum": "at least",
            "maximum": "at most",
            "minItems": "a list no shorter than",
            "maxItems": "a list no longer than",
            "minLength": "text no shorter than",
        }
        yield f"{path} is {_show(found)}, expected {words.get(str(rule), str(rule))} {_show(wanted)}"


def _describe(parent: object, *, key: str) -> str:
    if isinstance(parent, Mapping):
        field = parent.get("properties", {}).get(key, {})
        kinds = field.get("type")
        if field.get("enum"):
            return f"one of {_show(field['enum'])}"
        if kinds:
            return " or ".join([kinds] if isinstance(kinds, str) else kinds)
    return "a value"


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= 120 else text[:117] + "..."
