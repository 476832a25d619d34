"""Reads JSON files from others, with limits."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

import jsonschema

from parity.core.errors import TraceError

_MOST_BYTES = 64 * 2**20
_SHOWN = 300


def read_json(path: Path) -> Any:
    """Return what a regular file of at most 64 MiB holds. Raises TraceError for anything else, links included."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise TraceError(f"{path} is not a regular file (a link, a pipe or a device); copy it to a file")
        if status.st_size > _MOST_BYTES:
            raise TraceError(f"{path} has {status.st_size:,} bytes, at most {_MOST_BYTES:,} are read")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise TraceError(f"{path} does not exist") from None
    except RecursionError:
        raise TraceError(f"{path} is nested too deeply") from None
    except TraceError:
        raise
    except (OSError, ValueError) as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise TraceError(f"{path} cannot be read: {error}") from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is not JSON")


def check_schema(found: Any, validator: jsonschema.Draft202012Validator, path: Path) -> None:
    """Raise TraceError with the first thing in which ``found`` differs from the schema. ``path`` is its file."""
    error = next(validator.iter_errors(found), None)
    if error is not None:
        shown = error.message if len(error.message) <= _SHOWN else error.message[:_SHOWN] + "..."
        raise TraceError(f"{path}: {error.json_path}: {shown}")
