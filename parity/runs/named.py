"""Finds the checkpoint that a user names. Needs neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path

from parity.core.errors import ParityError
from reference.errors import ReferenceModelError
from reference.hub import checkpoint_folder


def named_checkpoint(name: str) -> Path:
    """Return the folder that a user named, or the downloaded snapshot of a hub id.

    Raises ParityError or ReferenceModelError if it is neither.
    """
    try:
        return checkpoint_folder(name)
    except ReferenceModelError as error:
        if error.__cause__ is None:
            raise
        # The hub's own messages have several lines.
        first = str(error).splitlines()[0].rstrip(".")
        raise ParityError(f"{first}; download it where the hub can be reached, and give its folder") from error
