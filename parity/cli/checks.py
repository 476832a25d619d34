"""Checks of options that need neither torch nor transformers, so that a usage error is shown at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parity.core.errors import ParityError
from reference.hub import local_folder


def check_model(name: str | None) -> None:
    """Raise ReferenceModelError if MODEL is neither a folder nor looks like a hub id. None is the command's default."""
    if name is not None:
        local_folder(name)


def check_device(device: str, dtype: str) -> None:
    """Raise ParityError for a dtype that the device cannot have."""
    if dtype == "tf32" and not device.startswith("cuda"):
        raise ParityError(f"--dtype tf32 is for GPUs, and the device is {device}; add --device cuda, or use float32")


def check_cases(names: Sequence[str], *, every_case: bool = False) -> None:
    """Raise ParityError for an unknown case, or if every case is asked for as well."""
    if names and every_case:
        raise ParityError("--case and --every-case cannot be used together; leave one of them out")
    from parity.cases.registry import chosen_cases  # imports a part of matplotlib, which chat does not need

    chosen_cases(names)


def check_something(there: bool, *, what: str, options: str) -> None:
    """Raise ParityError if a command got nothing to work on. ``options`` are those that would give it something."""
    if not there:
        raise ParityError(f"there is nothing to {what}; give {options}")


def check_shards(folders: Sequence[Path]) -> None:
    """Raise ParityError for a folder that has neither a sign-off nor a report."""
    for folder in folders:
        if not any((folder / name).is_file() for name in ("signoff.json", "report.json")):
            raise ParityError(f"{folder} has neither signoff.json nor report.json; name the folder of a shard")
