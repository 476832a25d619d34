"""Milestones as data: phases, what each must pass, and waivers, read from a TOML file. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from parity.bundles.jsonfile import check_schema
from parity.core.errors import ParityError

_MOST_BYTES = 2**20
STANDARD = Path(str(resources.files("parity.milestones"))) / "standard.toml"
MISTAKES = "mistakes"


@dataclass(frozen=True)
class Item:
    """One thing that a phase must pass.

    ``id`` names it in records and waivers: ``case:NAME:DTYPE``, a check such as ``relations``, or ``mistakes:PHASE``.
    ``detail`` is what the file says about a check or about the mistakes.
    """

    id: str
    kind: str  # case, check or mistakes
    name: str
    dtype: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "kind": self.kind, "name": self.name, "dtype": self.dtype, "detail": dict(self.detail)}


@dataclass(frozen=True)
class Phase:
    """A phase and its must-pass list. ``was`` and ``commit`` say what it was in mistral.rs."""

    number: int
    title: str
    was: str
    commit: str | None
    items: tuple[Item, ...]

    @property
    def cases(self) -> list[Item]:
        return [item for item in self.items if item.kind == "case"]


@dataclass(frozen=True)
class Waiver:
    """A known deviation of one item of a phase, allowed until the day ``expires``, which is still allowed."""

    phase: int
    item: str
    reason: str
    link: str
    expires: date

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "item": self.item,
            "reason": self.reason,
            "link": self.link,
            "expires": self.expires.isoformat(),
        }


@dataclass(frozen=True)
class Subject:
    """Who is signed off. ``evidence`` is ``run`` for the port, ``bundle`` for an engine that hands in traces.

    ``bundle`` and ``traces`` are absolute; in the file they are relative to it.
    """

    engine: str
    evidence: str
    bundle: Path | None = None
    sha256: str | None = None
    traces: Path | None = None


@dataclass(frozen=True)
class Milestones:
    """A milestones file that was read. ``sha256`` is that of its bytes."""

    path: Path
    sha256: str
    subject: Subject
    phases: tuple[Phase, ...]
    waivers: tuple[Waiver, ...]

    def chosen(self, numbers: Sequence[int]) -> tuple[Phase, ...]:
        """Return the phases with these numbers, or all without numbers. Raises ParityError for an unknown one."""
        known = {phase.number for phase in self.phases}
        unknown = [number for number in numbers if number not in known]
        if unknown:
            raise ParityError(
                f"{self.path} has no phase {', '.join(map(str, unknown))}; it has {', '.join(map(str, sorted(known)))}"
            )
        return tuple(phase for phase in self.phases if not numbers or phase.number in numbers)


def read_milestones(path: Path) -> Milestones:
    """Read a milestones file. Raises ParityError with what is wrong in it."""
    data = _bytes(path)
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ParityError(f"{path} is not TOML: {error}") from None
    plain = json.loads(json.dumps(found, default=str))  # a date becomes its ISO text
    check_schema(plain, _validator(), path)
    phases = tuple(_phase(section) for section in plain["phase"])
    subject = _subject(plain["subject"], path)
    made = Milestones(
        path, hashlib.sha256(data).hexdigest(), subject, phases, tuple(_waivers(plain.get("waiver", []), path))
    )
    _check(made)
    return made


@cache
def standard() -> Milestones:
    """The milestones that the project ships."""
    return read_milestones(STANDARD)


def milestones_of(path: Path | None) -> Milestones:
    """Return the milestones of a file, or the standard ones."""
    return standard() if path is None else read_milestones(path)


def requires_less(phase: Phase) -> str:
    """Say what a phase leaves out of the standard's phase of the same name or number, or return an empty text."""
    own = next((other for other in standard().phases if phase.title == other.title), None)
    own = own or next((other for other in standard().phases if phase.number == other.number), None)
    if own is None:
        return ""
    missing = [item for item in own.items if not any(_covers(other, item) for other in phase.items)]
    if not missing:
        return ""
    parts = []
    for kind, noun in (("case", "cases"), ("check", "checks")):
        all_of = [item for item in own.items if item.kind == kind]
        if any(item in missing for item in all_of):
            kept = sum(item not in missing for item in all_of)
            count = f"{kept} of the standard's {len(all_of)}" if kept else "none of the standard's"
            parts.append(f"{count} {noun}")
    if any(item.kind == MISTAKES for item in missing):
        parts.append("not all of the standard's known mistakes")
    return f"requires {', '.join(parts)}"


def _covers(item: Item, wanted: Item) -> bool:
    """Whether ``item`` requires at least what ``wanted`` requires."""
    if (item.kind, item.name, item.dtype) != (wanted.kind, wanted.name, wanted.dtype):
        return False
    for name, value in wanted.detail.items():
        own = item.detail.get(name)
        if isinstance(value, list) and not set(value) <= set(own or []):
            return False
        if isinstance(value, int) and (own is None or own < value):
            return False
    return True


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ParityError(f"{path} is not a file; name a milestones file (TOML)")
        if path.stat().st_size > _MOST_BYTES:
            raise ParityError(f"{path} has {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise ParityError(f"{path} cannot be read: {error.strerror or error}") from None


@cache
def _validator() -> jsonschema.Draft202012Validator:
    text = resources.files("parity.milestones").joinpath("milestones.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def _subject(section: Mapping[str, Any], path: Path) -> Subject:
    def place(name: str) -> Path | None:
        return (path.absolute().parent / section[name]) if name in section else None

    return Subject(section["engine"], section["evidence"], place("bundle"), section.get("sha256"), place("traces"))


def _phase(section: Mapping[str, Any]) -> Phase:
    items = [
        Item(f"case:{name}:{dtype}", "case", name, dtype)
        for group in section.get("cases", [])
        for dtype in group["dtypes"]
        for name in group["names"]
    ]
    items += [_check_item(check) for check in section.get("checks", [])]
    if MISTAKES in section:
        items.append(Item(f"{MISTAKES}:{section['number']}", MISTAKES, "known mistakes", None, section[MISTAKES]))
    return Phase(section["number"], section["title"], section.get("was", ""), section.get("commit"), tuple(items))


def _check_item(section: Mapping[str, Any]) -> Item:
    named = [*section.get("components", []), *section.get("mutants", [])]
    if section["name"] == "generation":
        named = section["cases"]
    about = f":{named[0]}" if named else ""
    about += f"+{len(named) - 1}-more" if len(named) > 1 else ""
    return Item(
        f"{section['name']}{about}",
        "check",
        section["name"],
        "float64" if section["name"] == "relations" else "float32",
        {name: value for name, value in section.items() if name != "name"},
    )


def _waivers(sections: Sequence[Mapping[str, Any]], path: Path) -> Iterator[Waiver]:
    for section in sections:
        try:
            expires = date.fromisoformat(section["expires"])
        except ValueError:
            raise ParityError(
                f"{path}: the waiver for {section['item']} expires on {section['expires']}, which is not a day"
            ) from None
        yield Waiver(section["phase"], section["item"], section["reason"], section["link"], expires)


def _check(made: Milestones) -> None:
    numbers = [phase.number for phase in made.phases]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ParityError(f"{made.path} has phase {twice} twice; number each phase once")
    for phase in made.phases:
        ids = [item.id for item in phase.items]
        again = next((name for name in ids if ids.count(name) > 1), None)
        if again is not None:
            raise ParityError(f"{made.path}: phase {phase.number} requires {again} twice; name it once")
        if not phase.items:
            raise ParityError(f"{made.path}: phase {phase.number} requires nothing; give it cases or checks")
        _check_evidence(made, phase)
    details: dict[str, Item] = {}
    for item in (item for phase in made.phases for item in phase.items):
        if details.setdefault(item.id, item) != item:
            raise ParityError(f"{made.path} requires {item.id} twice, with different details; make them the same")
    of = {phase.number: [item.id for item in phase.items] for phase in made.phases}
    given: set[tuple[int, str]] = set()
    for waiver in made.waivers:
        if waiver.item not in of.get(waiver.phase, []):
            raise ParityError(
                f"{made.path} waives {waiver.item!r} of phase {waiver.phase}, which that phase does not require; "
                f"it requires {', '.join(of.get(waiver.phase, [])) or 'nothing, as there is no such phase'}"
            )
        if (waiver.phase, waiver.item) in given:
            raise ParityError(f"{made.path} waives {waiver.item} of phase {waiver.phase} twice; keep one waiver")
        given.add((waiver.phase, waiver.item))


def _check_evidence(made: Milestones, phase: Phase) -> None:
    if made.subject.evidence != "bundle":
        return
    other = next((item for item in phase.items if item.kind != "case"), None)
    if other is not None:
        raise ParityError(
            f"{made.path}: phase {phase.number} requires {other.id}, which runs the port; an engine that hands in "
            "traces can only be required to pass cases"
        )
