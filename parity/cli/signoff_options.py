"""The options of ``parity signoff``, and the milestones that they name. Needs neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parity.cases.registry import every_case
from parity.core.errors import ParityError
from parity.milestones.collect import EVIDENCE
from parity.milestones.plan import Milestones, milestones_of
from parity.milestones.shards import Shard


@dataclass(frozen=True)
class SignoffOptions:
    """The options of ``parity signoff``. Without phases, all milestones of the file are judged."""

    milestones: Path | None
    phases: tuple[int, ...]
    out: Path | None
    reuse: Path | None
    junit: Path | None
    summary: Path | None
    as_json: bool
    threads: int | None
    shard: Shard | None = None
    annotations: bool = False
    workers: int | None = None


def check_signoff(options: SignoffOptions) -> None:
    """Raise ParityError for a milestones file, a phase, a case or a folder that cannot be used."""
    milestones = milestones_of(options.milestones)
    milestones.chosen(options.phases)
    _check_cases(milestones)
    if options.reuse is not None and not (options.reuse / EVIDENCE).is_dir():
        raise ParityError(
            f"{options.reuse} has no folder {EVIDENCE!r}; --reuse names the folder of an earlier sign-off"
        )
    check_outputs([options.junit, options.summary])


def check_outputs(paths: Sequence[Path | None]) -> None:
    """Raise ParityError if a file is to be written where a folder is."""
    for path in paths:
        if path is not None and path.is_dir():
            raise ParityError(f"{path} is a folder; name a file")


def _check_cases(made: Milestones) -> None:
    """Raise ParityError if a file for the port names a case that does not exist. Bundles have cases of their own."""
    if made.subject.evidence != "run":
        return
    known = every_case()
    for phase in made.phases:
        named = [item.name for item in phase.cases]
        named += [name for item in phase.items for name in item.detail.get("cases", [])]
        unknown = next((name for name in named if name not in known), None)
        if unknown is not None:
            raise ParityError(f"{made.path}: there is no case {unknown!r} (phase {phase.number}); see `parity cases`")
