"""The record of a sign-off: an in-toto statement with every raw figure, and digests over all of it except times.

What may differ between two runs of the same thing (times, the command, what was reused) is in ``run``, which no digest
covers. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from parity.milestones.collect import Collected
from parity.milestones.keys import Checkout, digest_json
from parity.milestones.plan import STANDARD, Milestones
from parity.milestones.records import evidence as figures
from parity.milestones.records.power import power
from parity.milestones.signoff import (
    ItemVerdict,
    MilestoneVerdict,
    SignOff,
    judge_milestone,
    total,
    total_label,
)

RECORD = "signoff.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
RECORD_VERSION = "1.0"
_TIMES = ("created", "command")
# The parts that have digests of their own, and those that no digest covers.
_NOT_SEALED = ("milestones", "evidence", "seals", "run", "digest")


@dataclass(frozen=True)
class Surroundings:
    """What a record says beside the evidence: the state of the code, its digest, the machine."""

    checkout: Checkout
    code: str
    checkpoints: Mapping[str, str]
    versions: Mapping[str, str]
    environment: Mapping[str, Any]
    seconds: float
    today: date


def verdicts(
    milestones: Milestones, phases: Sequence[int], evidence: Mapping[str, Mapping[str, Any]], *, today: date
) -> list[MilestoneVerdict]:
    """Judge the chosen phases of a milestones file."""
    return [judge_milestone(phase, evidence, milestones.waivers, today=today) for phase in milestones.chosen(phases)]


def make_record(
    milestones: Milestones, judged: Sequence[MilestoneVerdict], collected: Collected, about: Surroundings
) -> dict[str, Any]:
    """Return the record as an in-toto statement."""
    worst, reason = total(judged, of=len(milestones.phases))
    label = total_label(judged, worst)
    signed = {
        "schema_version": RECORD_VERSION,
        "subject": _subject(milestones, about),
        "milestones_file": {
            "name": "standard" if milestones.path == STANDARD else milestones.path.name,
            "sha256": milestones.sha256,
            "phases": len(milestones.phases),
        },
        "checkpoints": dict(about.checkpoints),
        "versions": dict(about.versions),
        "environment": {name: value for name, value in about.environment.items() if name not in _TIMES},
        "verdict": {"value": worst.label, "label": label, "exit_code": worst.value, "reason": reason},
        "milestones": [milestone_section(found, collected.evidence) for found in judged],
        "power": power(collected.evidence),
        "evidence": {name: _sealed(found) for name, found in collected.evidence.items()},
    }
    predicate = {
        **test_result(judged),
        "configuration": configuration(signed),
        "signoff": {**signed, "seals": seals(signed), "run": _run(collected, about)},
    }
    statement = {
        "_type": STATEMENT,
        "subject": [descriptor(signed)],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    predicate["signoff"]["digest"] = record_digest(statement)
    return statement


def record_digest(statement: Mapping[str, Any]) -> str:
    """Return the digest over the whole statement except ``run``, times and the digest itself."""
    predicate = statement["predicate"]
    inner = {name: value for name, value in predicate["signoff"].items() if name not in ("run", "digest")}
    inner["evidence"] = {name: figures.without_times(found) for name, found in inner["evidence"].items()}
    return digest_json({**statement, "predicate": {**predicate, "signoff": inner}})


def seals(signed: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest for each field, and for each milestone and piece of evidence, so that a change can be named."""
    found = {name: digest_json(value) for name, value in signed.items() if name not in _NOT_SEALED}
    for milestone in signed["milestones"]:
        found |= {f"milestone {milestone['phase']}: {name}": digest_json(value) for name, value in milestone.items()}
    return found | {f"evidence {name}": found_["digest"] for name, found_ in signed["evidence"].items()}


def milestone_section(found: MilestoneVerdict, evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a milestone with its items; all of it follows from the milestones file and the evidence."""
    phase = found.phase
    return {
        "phase": phase.number,
        "title": phase.title,
        "was": phase.was,
        "commit": phase.commit,
        "verdict": found.verdict.label,
        "label": found.label,
        "exit_code": found.verdict.value,
        "reason": found.reason,
        "requires_less": found.less,
        "items": [_item(item, evidence.get(item.item.id)) for item in found.items],
        "waivers": [waiver.to_json() for waiver in found.waivers],
    }


def _item(found: ItemVerdict, evidence: Mapping[str, Any] | None) -> dict[str, Any]:
    judgement = found.judgement
    return {
        **found.item.to_json(),
        "verdict": judgement.verdict.name,
        "reason": judgement.reason,
        "waived": found.waiver is not None,
        "compared": judgement.seams_compared,
        "expected": judgement.seams_expected,
        "rows": judgement.rows_compared,
        "worst": None if evidence is None else figures.worst(evidence),
        "floor_runs": [] if evidence is None else list(evidence["floor_runs"]),
        "evidence": None if evidence is None else evidence["digest"],
    }


def _sealed(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Add a short digest for each field, row and column, so that a changed figure can be named."""
    return {**evidence, "seals": evidence_seals(evidence)}


def evidence_seals(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return short digests of the fields, and of the rows and columns of the values and tests, times apart."""
    fields = [name for name in evidence if name not in ("values", "tests", "digest", "seals")]
    found: dict[str, Any] = {"fields": {name: _short(evidence[name]) for name in fields}}
    untimed = figures.without_times(evidence)
    for table in ("values", "tests"):
        rows = untimed[table] or []
        found[table] = {
            "rows": [_short(cells) for cells in rows],
            "columns": [_short(list(column)) for column in zip(*rows, strict=True)],
        }
    return found


def _short(value: Any) -> str:
    return digest_json(value)[:8]


def _subject(milestones: Milestones, about: Surroundings) -> dict[str, Any]:
    checkout = about.checkout
    subject = milestones.subject
    return {
        "engine": subject.engine,
        "evidence": subject.evidence,
        "bundle": subject.sha256,
        "commit": checkout.commit or "unknown",
        "clean": checkout.clean,
        "changes": list(checkout.changes),
        "code": about.code,
    }


def descriptor(signed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the in-toto subject. For a foreign engine it is the milestones file, which names its traces."""
    subject = signed["subject"]
    if subject["evidence"] == "bundle":
        return {"name": subject["engine"], "digest": {"sha256": signed["milestones_file"]["sha256"]}}
    commit = {} if subject["commit"] == "unknown" else {"gitCommit": subject["commit"]}
    return {"name": subject["engine"], "digest": {"sha256": subject["code"], **commit}}


def configuration(signed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was used, with digests: milestones, bundle, checkpoints."""
    used = {"milestones": signed["milestones_file"]["sha256"]}
    if signed["subject"]["bundle"] is not None:
        used["golden bundle"] = signed["subject"]["bundle"]
    used |= {f"checkpoint {name}": digest for name, digest in signed["checkpoints"].items()}
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in used.items()]


def test_result(judged: Sequence[MilestoneVerdict]) -> dict[str, Any]:
    """Return the result and the names of passed, waived and failed items, as in-toto's test result has them."""
    found: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for milestone in judged:
        for item in milestone.items:
            passed = item.judgement.verdict.name == "PARITY"
            name = "passedTests" if passed else "warnedTests" if item.waiver is not None else "failedTests"
            found[name].append(f"phase {milestone.phase.number}: {item.item.id}")
    signed_off = all(milestone.verdict is SignOff.SIGNED_OFF for milestone in judged)
    result = "FAILED" if not signed_off else "WARNED" if found["warnedTests"] else "PASSED"
    return {"result": result, **found}


def _run(collected: Collected, about: Surroundings) -> dict[str, Any]:
    return {
        **{name: about.environment[name] for name in _TIMES},
        "seconds": about.seconds,
        "items": dict(collected.seconds),
        "reused": list(collected.reused),
        "stale": dict(collected.stale),
    }


def dump(statement: Mapping[str, Any]) -> bytes:
    """Return the record as JSON, one line for each value."""
    text = json.dumps(statement, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return (text.replace('],["', '],\n["') + "\n").encode("ascii")
