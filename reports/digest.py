"""What a reader wants to know first: sentences, sorted findings and small tables. No verdict is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from reports import formatting as fmt

Finding = Mapping[str, Any]
TOKEN_KINDS = ("text", "image", "video", "boundary")
# Up to so many findings are shown at once; of more, so many lead.
_UNFOLDED, _LEADING = 16, 12
GROUPS = {
    "processor": "processor",
    "inputs": "inputs",
    "vision": "vision",
    "text": "text layers",
    "output": "output",
    "cache": "KV cache",
    "generation": "generation",
    "weights": "weights",
}


@dataclass(frozen=True)
class Band:
    """Findings that follow each other in one region of the model: [start, stop)."""

    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Leading:
    """The findings that are shown before a reader opens the whole table."""

    title: str
    findings: Sequence[Finding]


@dataclass(frozen=True)
class KindRow:
    """The worst ratio of one kind of token, over everything and in each group."""

    kind: str
    worst: float | None
    seam: str
    over: int
    seams: int
    groups: tuple[float | None, ...]


def first_divergence(document: Mapping[str, Any]) -> Finding | None:
    """The first divergence, as the verdict names it; None where there is none."""
    index = document["verdict"]["first_divergence"]
    return None if index is None else document["findings"][index]


def first_sentence(document: Mapping[str, Any]) -> str:
    """What is known about the first divergence, or about the seam nearest to its gate."""
    findings = document["findings"]
    first = first_divergence(document)
    if first is None:
        if not findings:
            return "Nothing was compared."
        nearest = worst_first([finding for finding in findings if finding["ratio"] is not None])
        if not nearest:
            return "No divergence is named; no seam has a ratio to its gate."
        at = nearest[0]
        lead = "" if document["verdict"]["value"] == "PARITY" else "No divergence is named. "
        return (
            f"{lead}Nearest to its gate is {at['seam']} ({at['step']}): figure "
            f"{fmt.number(at['figure'])}, gate {fmt.number(at['gate'])}, {fmt.ratio(at['ratio'])} the gate."
        )
    parts = [f"{what_happened(first)}."]
    if first["worst_row"]:
        parts.append(f"Worst row: {first['worst_row']}.")
    kinds = {kind: value for kind, value in first["by_kind"].items() if value is not None}
    over = [f"{kind} {fmt.ratio(value)}" for kind, value in kinds.items() if value > 1]
    within = [f"{kind} {fmt.ratio(value)}" for kind, value in kinds.items() if value <= 1]
    if over:
        parts.append(f"Over the gate: {', '.join(over)}" + (f"; within: {', '.join(within)}." if within else "."))
    before = [finding["status"] for finding in findings[: first["index"]]]
    if before:
        sound = before.count("ok")
        all_of = ("All" if sound > 1 else "The") if sound == len(before) else f"{sound:,} of"
        parts.append(f"{all_of} {fmt.plural(len(before), 'earlier finding')} {'is' if len(before) == 1 else 'are'} ok.")
    if first["note"]:
        parts.append(first["note"].strip())
    return " ".join(parts)


def what_happened(finding: Finding) -> str:
    """One finding in words, without its seam."""
    status, rows = finding["status"], finding["rows"]
    failed = ""
    if finding["rows_failed"] and rows:
        failed = f"; {finding['rows_failed']:,} of {fmt.plural(rows, 'row')} fail"
    if status == "missing":
        return "The subject has no such seam"
    if status == "unexpected":
        return "The subject has a seam that the reference lacks"
    if status == "shape_mismatch":
        return f"The shape is {fmt.shape(finding['subject_shape'])}, the reference's is {fmt.shape(finding['shape'])}"
    if status == "nonfinite":
        return f"NaN or infinity in the values{failed}"
    if status == "not_compared":
        return "The seam was not compared"
    if finding["mismatches"] is not None and finding["gate_kind"] == "exact":
        return f"{fmt.plural(finding['mismatches'], 'value')} differ where equality is required{failed}"
    if finding["gate_kind"] == "steps" and finding["figure"] is not None:
        share = 100 * (finding["exact_share"] or 0.0)
        return (
            f"Off by at most {fmt.number(finding['figure'])} steps where {fmt.number(finding['gate'])} is allowed, "
            f"{share:.4g} % of the values exact{failed}"
        )
    return (
        f"Figure {fmt.number(finding['figure'])} against a gate of {fmt.number(finding['gate'])}, "
        f"{fmt.ratio(finding['ratio'])} the gate{failed}"
    )


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Findings by falling ratio; those without a ratio come last, in their given order."""
    return sorted(findings, key=lambda finding: (finding["ratio"] is None, -(finding["ratio"] or 0.0)))


def leading(document: Mapping[str, Any]) -> Leading | None:
    """The findings that matter: the first that fail, in their order, then those nearest to the gate.

    None if there are so few findings that nothing has to be folded away.
    """
    findings = document["findings"]
    if len(findings) <= _UNFOLDED:
        return None
    bad = failing(findings)
    sound = worst_first([finding for finding in findings if finding["status"] == "ok" and finding["ratio"]])
    shown = [*bad[:_LEADING], *sound[: max(3, _LEADING - len(bad))]]
    near = len(shown) - len(bad[:_LEADING])
    title = f"The {fmt.plural(near, 'finding')} nearest to the gate, of {len(findings):,}."
    if bad:
        rest = f" (of {len(bad):,})" if len(bad) > _LEADING else ""
        count = fmt.plural(len(bad[:_LEADING]), "failure")
        title = f"The first {count}{rest}, then the {near} sound ones nearest to the gate."
    return Leading(title, shown)


def failing(findings: Sequence[Finding]) -> list[Finding]:
    """Findings whose status is anything but ok."""
    return [finding for finding in findings if finding["status"] != "ok"]


def status_counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings have each status, ok first."""
    counts = Counter(finding["status"] for finding in findings)
    return {status: counts[status] for status in fmt.GLYPHS if status in counts}


def bands(document: Mapping[str, Any]) -> list[Band]:
    """Regions by group in the step that has most of them (the prefill), and one region for each other step."""
    findings = document["findings"]
    groups: dict[str, set[str]] = {}
    for finding in findings:
        groups.setdefault(finding["step"], set()).add(finding["group"])
    widest = max(groups, key=lambda step: len(groups[step]), default=None)

    def label(finding: Finding) -> str:
        return GROUPS[finding["group"]] if finding["step"] == widest else finding["step"]

    found, start = [], 0
    for name, members in groupby(findings, key=label):
        stop = start + len(list(members))
        found.append(Band(label=name, start=start, stop=stop))
        start = stop
    return found


def kinds_of(findings: Sequence[Finding]) -> list[str]:
    """Every kind of token that the findings name, the usual ones first."""
    named = {kind for finding in findings for kind in finding["by_kind"]}
    return [kind for kind in TOKEN_KINDS if kind in named] + sorted(named - set(TOKEN_KINDS))


def groups_of(findings: Sequence[Finding]) -> list[str]:
    """The groups that occur, in the order of the computation."""
    present = {finding["group"] for finding in findings}
    return [group for group in GROUPS if group in present]


def kind_rows(findings: Sequence[Finding]) -> list[KindRow]:
    """The worst ratio of every kind of token, over all seams and for each group."""
    rows = []
    groups = groups_of(findings)
    for kind in kinds_of(findings):
        measured = [finding for finding in findings if finding["by_kind"].get(kind) is not None]
        if not measured:
            continue
        worst = max(measured, key=lambda finding: finding["by_kind"][kind])
        rows.append(
            KindRow(
                kind=kind,
                worst=worst["by_kind"][kind],
                seam=worst["seam"],
                over=sum(finding["by_kind"][kind] > 1 for finding in measured),
                seams=len(measured),
                groups=tuple(
                    max((item["by_kind"][kind] for item in measured if item["group"] == group), default=None)
                    for group in groups
                ),
            )
        )
    return rows
