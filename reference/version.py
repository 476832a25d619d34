"""The version of the installed transformers, read without importing it."""

from __future__ import annotations

from importlib.metadata import version


def transformers_major() -> int:
    """Return 4 or 5. The two take different arguments and read different config dialects."""
    return int(version("transformers").split(".")[0])
