"""What to type next after a divergence. Needs no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

OFFER = "to see whether a known mistake explains it"
_BUNDLE = "golden"


def offered(*commands: Sequence[str]) -> str:
    """Return the offer of a diagnosis with its commands, one after the other."""
    return f"{OFFER}: {' && '.join(shlex.join(words) for words in commands)}"


def of_case(case: str, dtype: str, *, traces: Path | None = None) -> list[list[str]]:
    """Return the commands that diagnose the port on a case of the registry, whose ``traces`` may exist already.

    Folders are named after the case, as ``parity judge`` looks for them.
    """
    make = ["parity", "bundle", "make", "--case", case, "--dtype", dtype, "--with-checkpoint", "--out", _BUNDLE]
    commands = [make]
    if traces is None:
        traces = Path("traces") / case
        commands.append(["parity", "run", "--case", case, "--dtype", dtype, "--traces", str(traces)])
    return [*commands, ["parity", "diagnose", _BUNDLE, str(traces), "--case", case]]
