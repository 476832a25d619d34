"""Collects evidence: what an earlier sign-off has is used if it is fresh, the rest is made, item by item.

Every finished item is written at once, so that a run that was killed can go on with ``--reuse``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.bundles.jsonfile import check_schema, read_json
from parity.core.errors import ParityError, TraceError
from parity.milestones.keys import differences, digest_json
from parity.milestones.plan import Item, Phase
from parity.milestones.records.evidence import Content, validator, without_times
from parity.milestones.records.source import Key, Source, isolated
from parity.milestones.shards import Shard

EVIDENCE = "evidence"
Keep = Callable[[str, Mapping[str, Any]], None]
Given = tuple[Item, Content, float]
# Makes the evidence of items. Each comes when it is finished, with the seconds that it took.
Give = Callable[[Sequence[Item]], Iterator[Given]]


@dataclass
class Collected:
    """Evidence by item, and what was reused, what was stale and why, and the seconds of what was run."""

    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Earlier:
    """The evidence of an earlier sign-off. ``refused`` are files that cannot be used, with the reason."""

    evidence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def file_name(item: str) -> str:
    """Return the name of the file that holds the evidence of an item. Long names are cut, and stay different."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', item)[:80]}-{digest_json(item)[:8]}.json"


def read_earlier(folder: Path | None) -> Earlier:
    """Read the evidence of an earlier sign-off. Raises ParityError if the folder has none."""
    if folder is None:
        return Earlier()
    place = folder / EVIDENCE
    if not place.is_dir():
        raise ParityError(f"{folder} has no folder {EVIDENCE!r}; --reuse names the folder of an earlier sign-off")
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for path in sorted(place.glob("*.json")):
        try:
            evidence = read_json(path)
            check_schema(evidence, validator("evidence"), path)
            fits = evidence["digest"] == evidence_digest(evidence)
        except (TraceError, ValueError) as error:  # a number such as 1e999 has no digest
            refused[path.name] = str(error)
            continue
        if file_name(evidence["item"]) != path.name:
            refused[path.name] = f"{path} has the evidence of {evidence['item']}, which belongs into another file"
        elif not fits:
            refused[path.name] = f"{path} was changed: its digest does not fit"
        else:
            found[evidence["item"]] = evidence
    return Earlier(found, refused)


def evidence_digest(evidence: Mapping[str, Any]) -> str:
    """Return the digest over everything but times and the digest itself."""
    return digest_json({name: value for name, value in without_times(evidence).items() if name != "digest"})


def every_item(phases: Sequence[Phase]) -> list[Item]:
    """Return the items of the phases, each once."""
    return list({item.id: item for phase in phases for item in phase.items}.values())


def collect(
    phases: Sequence[Phase],
    source: Source,
    earlier: Earlier,
    *,
    keep: Keep,
    shard: Shard | None = None,
    give: Give | None = None,
    progress: Callable[[str], None] = lambda _what: None,
) -> Collected:
    """Return the evidence of every item of the phases, or of those in the shard.

    ``give`` makes what there is not yet; default: the source does, one item after another. An error in one item is
    evidence of that item alone.
    """
    items = every_item(phases)
    if shard is not None:
        items = shard.mine(items)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(source.order(item), []).append(item)
    done = Collected()
    left: list[Item] = []
    keys: dict[str, Key] = {}
    for item in (item for group in groups.values() for item in group):
        content = isolated(lambda wanted: _begun(wanted, source, earlier, done, keys), item)
        if content:
            progress(item.id)
            _keep(item, content, done, keys, keep)
        else:
            left.append(item)
    for item, content, seconds in (give or _one_by_one(source, progress))(left):
        done.seconds[item.id] = round(seconds, 3)
        _keep(item, content, done, keys, keep)
    # In the order of the file, whatever ran first.
    done.evidence = {item.id: done.evidence[item.id] for item in items}
    return done


def _one_by_one(source: Source, progress: Callable[[str], None]) -> Give:
    def give(items: Sequence[Item]) -> Iterator[Given]:
        for item in items:
            progress(item.id)
            yield give_one(source, item)

    return give


def give_one(source: Source, item: Item) -> Given:
    """Return the evidence of an item, and the seconds that it took."""
    start = time.perf_counter()
    content = isolated(source.give, item)
    return item, content, time.perf_counter() - start


def _begun(item: Item, source: Source, earlier: Earlier, done: Collected, keys: dict[str, Key]) -> dict[str, Any]:
    """Note the key of an item. Returns its earlier evidence, or nothing if that may not be used."""
    keys[item.id] = source.key(item)
    return dict(_fresh(item, keys[item.id], earlier, done) or {})


def _keep(item: Item, content: Content, done: Collected, keys: Mapping[str, Key], keep: Keep) -> None:
    if item.id not in done.reused:
        made = {"item": item.id, "key": keys.get(item.id, {}), **content}
        content = {**made, "digest": evidence_digest(made)}
    done.evidence[item.id] = dict(content)
    keep(file_name(item.id), done.evidence[item.id])


def _fresh(item: Item, key: Key, earlier: Earlier, done: Collected) -> Mapping[str, Any] | None:
    """Return earlier evidence that may be used, or note why it may not."""
    before = earlier.evidence.get(item.id)
    if before is None:
        if file_name(item.id) in earlier.refused:
            done.stale[item.id] = earlier.refused[file_name(item.id)]
        return None
    if before["key"] != key:
        done.stale[item.id] = "; ".join(differences(before["key"], key))
        return None
    if before["error"] is not None:
        # What could not be run, or failed with an error, is tried again: the machine may be at fault.
        done.stale[item.id] = "it ended with an error and is run again"
        return None
    done.reused.append(item.id)
    return before
