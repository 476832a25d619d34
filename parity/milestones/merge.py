"""Puts the shards of a suite or of a sign-off together. What is merged equals what one run would have given.

Shards are refused if they do not belong together: other code, versions, checkpoints, dtype or selection. A missing
shard makes the result INCOMPLETE. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.milestones.collect import Collected, every_item
from parity.milestones.keys import Checkout
from parity.milestones.plan import Milestones
from parity.milestones.records import verify
from parity.milestones.records.record import Surroundings
from parity.milestones.records.verify import Record
from parity.milestones.shards import Shard

Document = Mapping[str, Any]


@dataclass(frozen=True)
class MergedSuite:
    """The lines of all shards in the order of one run, with the folder that each came from."""

    lines: Sequence[Document]
    folders: Mapping[str, Path]
    selected: Sequence[str]
    made_with: Document
    missing: Sequence[str]
    forwards: int
    seconds: float


def merge_suites(shards: Sequence[tuple[Path, Document]], *, code: str) -> MergedSuite:
    """Merge the documents of suites, each with its folder. Raises ParityError if they do not belong together."""
    first_path, first = shards[0]
    for path, document in shards:
        if document["shard"] is None:
            raise ParityError(f"{path} is no shard: its suite was run as a whole; run it with --shard I/N")
        _same(first_path, _common(first), path, _common(document))
    if first["made_with"]["code"] != code:
        raise ParityError(
            f"{first_path} is of other code: its digest is {first['made_with']['code']}, that of this installation is "
            f"{code}; merge with the code that ran the shards"
        )
    count = first["shard"]["count"]
    of: dict[int, Path] = {}
    for path, document in shards:
        index = document["shard"]["index"]
        if index in of:
            raise ParityError(f"{of[index]} and {path} are both shard {index}/{count}; give each shard once")
        of[index] = path
        _check_own(path, document)
    lines = {line["name"]: line for _, document in shards for line in document["cases"]}
    folders = {line["name"]: path for path, document in shards for line in document["cases"]}
    return MergedSuite(
        [lines[name] for name in first["selected"] if name in lines],
        folders,
        first["selected"],
        {**first["made_with"], "checkpoints": _checkpoints(shards)},
        [f"shard {index}/{count}" for index in range(1, count + 1) if index not in of],
        sum(document["totals"]["forwards"] or 0 for _, document in shards),
        round(sum(document["totals"]["seconds"] or 0.0 for _, document in shards), 3),
    )


def _common(document: Document) -> dict[str, Any]:
    made_with = document["made_with"]
    return {
        "number of shards": document["shard"] and document["shard"]["count"],
        "code": made_with["code"],
        "dtype": made_with["dtype"],
        **{f"version of {name}": version for name, version in made_with["versions"].items()},
        "selection of cases": ", ".join(document["selected"]),
    }


def _same(first: Path, expected: Document, path: Path, found: Document) -> None:
    for name in dict.fromkeys([*expected, *found]):
        if expected.get(name) != found.get(name):
            raise ParityError(
                f"{path} does not belong to {first}: {name} is {found.get(name)} there, and {expected.get(name)} in "
                f"{first}; merge shards of one run"
            )


def _check_own(path: Path, document: Document) -> None:
    """The cases of a shard are those that it has to run; one that is absent is named by the verdict."""
    wanted = Shard(**document["shard"]).mine(document["selected"])
    foreign = [line["name"] for line in document["cases"] if line["name"] not in wanted]
    if foreign:
        raise ParityError(f"{path} has the case {foreign[0]}, which is not in its shard; run the shard again")


def _checkpoints(shards: Sequence[tuple[Path, Document]]) -> dict[str, str]:
    found: dict[str, tuple[str, Path]] = {}
    for path, document in shards:
        for name, digest in document["made_with"]["checkpoints"].items():
            before, where = found.setdefault(name, (digest, path))
            if before != digest:
                raise ParityError(
                    f"{path} does not belong to {where}: its checkpoint {name} has the sha256 {digest}, there it is "
                    f"{before}; merge shards of one run"
                )
    return {name: digest for name, (digest, _) in sorted(found.items())}


def merge_records(
    records: Sequence[Record], milestones: Milestones, checkout: Path
) -> tuple[Collected, Surroundings, list[int]]:
    """Merge the evidence of sign-offs that ran a shard each. Returns it with the surroundings and the phases.

    Raises ParityError if a record does not hold, is of another checkout, or does not belong to the others.
    """
    first = records[0]
    for record in records:
        fault = next(_faults(record, milestones, checkout), None)
        if fault is not None:
            raise ParityError(f"{record.path} cannot be merged: {fault}")
        _same(first.path, _made_with(first), record.path, _made_with(record))
    evidence: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, found in record.signed["evidence"].items():
            plain = {field: value for field, value in found.items() if field != "seals"}
            if evidence.setdefault(name, plain)["digest"] != plain["digest"]:
                raise ParityError(f"{record.path} has other evidence of {name} than an earlier shard; give each once")
    items = [item.id for item in every_item(milestones.chosen(first.phases))]
    merged = Collected(
        {name: evidence[name] for name in items if name in evidence},
        seconds={name: value for record in records for name, value in record.signed["run"]["items"].items()},
    )
    signed = first.signed
    subject = signed["subject"]
    commit = None if subject["commit"] == "unknown" else subject["commit"]
    changes = tuple(dict.fromkeys(change for record in records for change in record.signed["subject"]["changes"]))
    about = Surroundings(
        Checkout(commit, subject["clean"] and not changes if subject["clean"] is not None else None, changes),
        subject["code"],
        _record_checkpoints(records),
        signed["versions"],
        {**signed["environment"], "created": signed["run"]["created"], "command": signed["run"]["command"]},
        round(sum(record.signed["run"]["seconds"] for record in records), 3),
        date.today(),
    )
    return merged, about, first.phases


def _faults(record: Record, milestones: Milestones, checkout: Path) -> Iterator[str]:
    yield from verify.changed(record)
    yield from verify.foreign(record, milestones, checkout)
    for name, found in record.signed["evidence"].items():
        yield from verify.key_faults(name, found["key"], record.signed)


def _made_with(record: Record) -> dict[str, Any]:
    signed = record.signed
    return {
        **{f"subject.{name}": signed["subject"][name] for name in ("engine", "evidence", "bundle", "commit", "code")},
        **{f"version of {name}": version for name, version in signed["versions"].items()},
        "milestones file": signed["milestones_file"]["sha256"],
        "phases": record.phases,
    }


def _record_checkpoints(records: Sequence[Record]) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in records:
        for name, digest in record.signed["checkpoints"].items():
            if found.setdefault(name, digest) != digest:
                raise ParityError(
                    f"{record.path}: its checkpoint {name} has the sha256 {digest}, in an earlier shard it is "
                    f"{found[name]}; merge shards of one run"
                )
    return found
