"""Checks a record: its digests, every verdict from its raw figures, and the checkout that it names. Needs no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from parity.bundles.jsonfile import check_schema, read_json
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.milestones.collect import evidence_digest
from parity.milestones.keys import code_digest, digest_json
from parity.milestones.plan import MISTAKES, Item, Milestones, read_milestones
from parity.milestones.records import evidence as figures
from parity.milestones.records.power import power
from parity.milestones.records.record import (
    configuration,
    descriptor,
    evidence_seals,
    milestone_section,
    record_digest,
    seals,
    test_result,
    verdicts,
)
from parity.milestones.records.source import Source, isolated
from parity.milestones.signoff import total, total_label


@dataclass(frozen=True)
class Record:
    """A record that was read and has the right shape. ``signed`` is the part of the project in the statement."""

    path: Path
    statement: Mapping[str, Any]

    @property
    def signed(self) -> Mapping[str, Any]:
        signed: Mapping[str, Any] = self.statement["predicate"]["signoff"]
        return signed

    @property
    def phases(self) -> list[int]:
        return [milestone["phase"] for milestone in self.signed["milestones"]]


def read_record(path: Path) -> Record:
    """Read a record. Raises ParityError for a file that is none."""
    statement = read_json(path)
    check_schema(statement, figures.validator(), path)
    try:
        digest_json(statement)
    except ValueError as error:  # a number such as 1e999, which is read as infinity
        raise ParityError(f"{path}: {error}; a record has finite numbers only") from None
    return Record(path, statement)


def changed(record: Record) -> Iterator[str]:
    """Yield every field whose digest does not fit. The names get as near to the change as the digests allow."""
    signed = record.signed
    for name, evidence in signed["evidence"].items():
        yield from (f"evidence of {name}: {place}" for place in _changed_in(evidence))
    held, now = signed["seals"], seals(signed)
    for name in dict.fromkeys([*held, *now]):
        if name.startswith("evidence ") and name in held and name in now:
            continue  # named above, with its figure
        if held.get(name) != now.get(name):
            yield f"{name} was {'removed' if name not in now else 'added' if name not in held else 'changed'}"
    evidence = {f"evidence {name}" for name in signed["evidence"]}
    yield from (f"{name} was changed as a whole" for name in sorted(evidence) if held.get(name) != now.get(name))
    if record_digest(record.statement) != signed["digest"]:
        yield f"digest: it is {record_digest(record.statement)}, the record says {signed['digest']}"


def _changed_in(evidence: Mapping[str, Any]) -> Iterator[str]:
    held, now = evidence["seals"], evidence_seals(evidence)
    for name in dict.fromkeys([*held["fields"], *now["fields"]]):
        if held["fields"].get(name) != now["fields"].get(name):
            yield f"{name} was changed"
    for table, columns in (("values", figures.COLUMNS), ("tests", figures.TESTS)):
        rows = figures.without_times(evidence)[table] or []
        yield from _changed_cells(table, columns, rows, held[table], now[table])
    content = {name: value for name, value in evidence.items() if name != "seals"}
    if evidence_digest(content) != evidence["digest"]:
        yield "its digest does not fit"


def _changed_cells(
    table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], held: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    if len(held["rows"]) != len(now["rows"]):
        yield f"it has {len(now['rows'])} {table}, its digests are of {len(held['rows'])}"
        return
    names = [name for name, old, new in zip(columns, held["columns"], now["columns"], strict=False) if old != new]
    for cells, old, new in zip(rows, held["rows"], now["rows"], strict=True):
        if old != new:
            place = f"{cells[0]}[{cells[1]}] ({cells[2]})" if table == "values" else str(cells[0])
            yield f"{', '.join(names) or 'a field'} of {place} was changed"


def contradicted(record: Record, milestones: Milestones, *, today: date) -> Iterator[str]:
    """Yield every verdict of the record that does not follow from its figures and the milestones file."""
    signed = record.signed
    for name, evidence in signed["evidence"].items():
        if evidence["item"] != name:
            yield f"evidence of {name} is that of {evidence['item']}"
        yield from (f"evidence of {name}: {fault}" for fault in figures.contradictions(evidence))
        yield from key_faults(name, evidence["key"], signed)
    known = {phase.number for phase in milestones.phases}
    unknown = [number for number in record.phases if number not in known]
    if unknown:
        yield f"phase {unknown[0]} is not in {milestones.path}"
        return
    judged = verdicts(milestones, record.phases, signed["evidence"], today=today)
    if [found.phase.number for found in judged] != record.phases:
        yield f"the phases are {record.phases}, which is not their order in {milestones.path}"
        return
    for found, held in zip(judged, signed["milestones"], strict=True):
        now = milestone_section(found, signed["evidence"])
        yield from _section_faults(now, held)
    if signed["power"] != power(signed["evidence"]):
        yield f"power is {signed['power']}, from the evidence and this checkout it is {power(signed['evidence'])}"
    worst, reason = total(judged, of=len(milestones.phases))
    now_total = {
        "value": worst.label, "label": total_label(judged, worst), "exit_code": worst.value, "reason": reason
    }  # fmt: skip
    predicate = record.statement["predicate"]
    if record.statement["subject"] != [descriptor(signed)]:
        yield f"subject is {record.statement['subject']}, from the record it is {[descriptor(signed)]}"
    for name, value in {**test_result(judged), "configuration": configuration(signed)}.items():
        if predicate[name] != value:
            yield f"predicate.{name} is {predicate[name]!r}, from the figures it is {value!r}"
    for name, value in now_total.items():
        if signed["verdict"][name] != value:
            yield f"verdict.{name} is {signed['verdict'][name]!r}, from the figures it is {value!r}"


def key_faults(item: str, key: Mapping[str, Any], signed: Mapping[str, Any]) -> Iterator[str]:
    """Evidence must belong to the code and the versions that the record names. What could not be run has no key."""
    wanted = {"code": signed["subject"]["code"], **signed["versions"]}
    for name in key.keys() & wanted.keys():
        if key[name] != wanted[name]:
            yield f"evidence of {item}: key.{name} is {key[name]}, the record names {wanted[name]}"


def _section_faults(now: Mapping[str, Any], held: Mapping[str, Any]) -> Iterator[str]:
    phase = now["phase"]
    items = {item["id"]: item for item in held["items"]}
    for item in now["items"]:
        there = items.pop(item["id"], None)
        if there is None:
            yield f"phase {phase}: {item['id']} is required and missing in the record"
            continue
        for name, value in item.items():
            if there[name] != value:
                yield f"phase {phase}, {item['id']}: {name} is {there[name]!r}, from the figures it is {value!r}"
    yield from (f"phase {phase}: {name} is in the record and not required" for name in items)
    for name, value in now.items():
        if name != "items" and held[name] != value:
            yield f"phase {phase}: {name} is {held[name]!r}, from the figures it is {value!r}"


def dirty(record: Record) -> Iterator[str]:
    """Yield that a record is of a checkout with uncommitted changes: its commit does not name its code."""
    subject = record.signed["subject"]
    if subject["clean"] is False:
        count = len(subject["changes"])
        yield (
            f"the checkout had {count} uncommitted change{'s' if count > 1 else ''} ({'; '.join(subject['changes'])}), "
            f"so commit {subject['commit']} does not name the code; commit them and sign off again"
        )


def foreign(record: Record, milestones: Milestones, checkout: Path) -> Iterator[str]:
    """Yield how code and milestones of a checkout differ from those of the record."""
    signed = record.signed
    if signed["milestones_file"]["sha256"] != milestones.sha256:
        yield (
            f"milestones: {milestones.path} has the sha256 {milestones.sha256}, "
            f"the record {signed['milestones_file']['sha256']}"
        )
    code = code_digest(checkout)
    if signed["subject"]["code"] != code:
        yield f"code: {checkout} has the digest {code}, the record {signed['subject']['code']}"


def milestones_of(record: Record, checkout: Path, given: Path | None) -> Milestones:
    """Find the milestones file of a record: the given one, or the standard one of the checkout."""
    if given is not None:
        return read_milestones(given)
    name = record.signed["milestones_file"]["name"]
    if name != "standard":
        raise ParityError(f"{record.path} is a sign-off of {name}; give that file with --milestones")
    return read_milestones(checkout / "parity" / "milestones" / "standard.toml")


def chosen_again(record: Record, milestones: Milestones, count: int, seed: int) -> list[Item]:
    """Choose random items to run again. The list of mistakes is no run. The same seed gives the same items."""
    evidence = record.signed["evidence"]
    items = {
        item.id: item
        for phase in milestones.chosen(record.phases)
        for item in phase.items
        if item.kind != MISTAKES and item.id in evidence
    }
    # Cheap and expensive items alike, but in a fixed order, so that the seed decides alone.
    names = sorted(items)
    return [items[name] for name in random.Random(seed).sample(names, min(count, len(names)))]


def run_again(item: Item, source: Source, held: Mapping[str, Any]) -> Iterator[str]:
    """Run an item again, and yield how its verdict and discrete figures differ from those of the record."""
    now = isolated(source.give, item)
    before, after = (figures.verdict_of(item, found).verdict for found in (held, now))
    if before is not after:
        yield f"{item.id}: the verdict is {before.name} in the record, {after.name} again"
    old, new = figures.discrete(held), figures.discrete(now)
    for table in ("values", "tests"):
        for name in dict.fromkeys([*old[table], *new[table]]):
            left, right = old[table].get(name), new[table].get(name)
            if left != right:
                yield f"{item.id}, {name}: {left} in the record, {right} again"
    for name in ("required", "blind_spots", "error"):
        if old[name] != new[name]:
            yield f"{item.id}, {name}: {old[name]} in the record, {new[name]} again"


def is_signed_off(record: Record) -> bool:
    """Whether the record says that everything is signed off."""
    return bool(record.signed["verdict"]["exit_code"] == Verdict.PARITY.exit_code)
