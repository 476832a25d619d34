"""What differs between two records: verdicts, margins, discrete figures, what they were made with. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.core.verdict import Verdict
from parity.milestones.records import evidence as figures
from parity.milestones.records.verify import Record

Line = dict[str, Any]


def difference(before: Record, after: Record) -> dict[str, Any]:
    """Return the sections ``verdict``, ``milestones``, ``items``, ``discrete``, ``settings`` and ``seams``.

    The verdict is PARITY if both records have the same verdicts and discrete figures; margins may differ.
    """
    found = {
        "milestones": list(_milestones(before, after)),
        "items": list(_items(before, after)),
        "discrete": list(_discrete(before, after)),
        "settings": list(_settings(before, after)),
        "seams": list(_seams(before, after)),
    }
    return {"verdict": _verdict(found), **found}


def _verdict(found: Mapping[str, list[Line]]) -> dict[str, Any]:
    parts = []
    changed = [line for line in found["milestones"] if line["before"] != line["after"]]
    if changed:
        first = changed[0]
        parts.append(
            f"{len(changed)} of {len(found['milestones'])} milestones changed, first phase {first['phase']}: "
            f"{first['before'] or 'absent'} before, {first['after'] or 'absent'} after"
        )
    items = [line for line in found["items"] if line["before"] != line["after"]]
    if items:
        first = items[0]
        parts.append(
            f"{len(items)} required items changed, first {first['item']}: {first['before'] or 'absent'} before, "
            f"{first['after'] or 'absent'} after"
        )
    if found["discrete"]:
        first = found["discrete"][0]
        parts.append(f"{len(found['discrete'])} discrete figures differ, first {first['item']}, {first['place']}")
    verdict = Verdict.DIVERGED if parts else Verdict.PARITY
    reason = "; ".join(parts) or "the same verdicts and discrete figures"
    return {"value": verdict.name, "exit_code": verdict.exit_code, "reason": reason}


def _pairs(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
    for name in dict.fromkeys([*before, *after]):
        yield name, before.get(name), after.get(name)


def _milestones(before: Record, after: Record) -> Iterator[Line]:
    old, new = ({found["phase"]: found for found in record.signed["milestones"]} for record in (before, after))
    for phase, was, now in sorted(_pairs(old, new)):
        yield {
            "phase": phase,
            "title": (now or was)["title"],
            "before": None if was is None else was["label"],
            "after": None if now is None else now["label"],
            "reason": "" if now is None else now["reason"],
        }


def _items(before: Record, after: Record) -> Iterator[Line]:
    for name, was, now in _pairs(_by_item(before), _by_item(after)):
        yield {
            "item": name,
            "before": None if was is None else was["verdict"],
            "after": None if now is None else now["verdict"],
            "ratio_before": _ratio(was),
            "ratio_after": _ratio(now),
            "reason": "" if now is None or now["verdict"] == "PARITY" else now["reason"],
        }


def _by_item(record: Record) -> dict[str, Mapping[str, Any]]:
    return {item["id"]: item for found in record.signed["milestones"] for item in found["items"]}


def _ratio(item: Mapping[str, Any] | None) -> float | None:
    return None if item is None or item["worst"] is None else item["worst"]["ratio"]


def _discrete(before: Record, after: Record) -> Iterator[Line]:
    """Discrete figures of what both records have."""
    for name, was, now in _pairs(before.signed["evidence"], after.signed["evidence"]):
        if was is None or now is None:
            continue
        old, new = figures.discrete(was), figures.discrete(now)
        for place, a, b in _pairs(old["values"], new["values"]):
            if a != b:
                yield _line(name, place, *_changed(a, b))
        yield from (_line(name, place, a, b) for place, a, b in _pairs(old["tests"], new["tests"]) if a != b)
        yield from (
            _line(name, field, old[field], new[field])
            for field in ("required", "blind_spots", "error")
            if old[field] != new[field]
        )


def _changed(before: Sequence[Any] | None, after: Sequence[Any] | None) -> tuple[str | None, str | None]:
    """Return the fields of a value that differ, in words, on both sides. A value that is absent is None."""
    if before is None or after is None:
        return tuple(None if side is None else str(side[3]) for side in (before, after))  # type: ignore[return-value]
    differing = [at for at, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    words = [
        ", ".join(f"{figures.DISCRETE[at].replace('alone_', 'isolated ')} {side[at]}" for at in differing)
        for side in (before, after)
    ]
    return words[0], words[1]


def _line(item: str, place: str, before: object, after: object) -> Line:
    return {"item": item, "place": place, "before": _text(before), "after": _text(after)}


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:300]


def _settings(before: Record, after: Record) -> Iterator[Line]:
    """What the records were made with, where it differs."""
    old, new = (dict(_made_with(record.signed)) for record in (before, after))
    yield from ({"name": name, "before": a, "after": b} for name, a, b in _pairs(old, new) if a != b)


def _made_with(signed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    subject = signed["subject"]
    yield from ((name, str(subject[name])) for name in ("engine", "evidence", "commit", "code", "bundle"))
    yield "uncommitted changes", "; ".join(subject["changes"]) or "none"
    yield "milestones file", f"{signed['milestones_file']['name']}, sha256 {signed['milestones_file']['sha256']}"
    yield from ((f"checkpoint {name}", digest) for name, digest in signed["checkpoints"].items())
    yield from ((f"version of {name}", found) for name, found in signed["versions"].items())
    yield from ((name, str(signed["environment"].get(name))) for name in ("threads", "machine", "cpu", "platform"))


def _seams(before: Record, after: Record) -> Iterator[Line]:
    """The worst ratio of each seam over all evidence, those that lost most of their margin first."""
    old, new = (seam_ratios(record.signed["evidence"]) for record in (before, after))
    lines = [{"seam": seam, "before": a, "after": b} for seam, a, b in _pairs(old, new) if a != b]
    yield from sorted(lines, key=_loss)


def _loss(line: Line) -> tuple[bool, float]:
    if line["before"] is None or line["after"] is None:
        return True, 0.0
    return False, line["before"] - line["after"]


def seam_ratios(evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the worst ratio of each seam over all evidence, accumulated or isolated; without seams that have none."""
    found: dict[str, float] = {}
    for content in evidence.values():
        for cells in content["values"] or []:
            value = figures.row(cells)
            ratios = [ratio for ratio in (value["ratio"], value["alone_ratio"]) if ratio is not None]
            if ratios:
                found[value["seam"]] = max(found.get(value["seam"], 0.0), *ratios)
    return found
