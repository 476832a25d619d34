"""Collects seams into the parts of the model that are drawn, each with its worst ratio. No verdict is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import formatting as fmt

#: Rows of a part that are shown; the rest is in the report of the case.
MOST_ROWS = 40
# The largest ratio of each tone, from a wide margin to none. Above the last, the gate fails.
_TONES = ((0.25, "wide"), (0.5, "fair"), (0.75, "close"), (1.0, "near"))
TONES = {
    "exact": "exact gate holds",
    "wide": "at most a quarter of the gate",
    "fair": "at most half",
    "close": "at most three quarters",
    "near": "up to the gate",
    "over": "over the gate, or not compared",
    "none": "nothing was compared",
}
_WORST = ("nonfinite", "shape_mismatch", "diverged", "missing", "unexpected", "not_compared")

# Pattern of a seam, the part's id, and the part's title. The first that fits decides; {} is the index in the name.
_PARTS = (
    (r"processor\.images\.", "pictures", "pictures"),
    (r"processor\.videos\.", "videos", "videos"),
    (r"processor\.", "prompt", "prompt"),
    (r"vision\.blocks\.(\d+)\.", "block-{}", "block {}"),
    (r"vision\.deepstack\.(\d+)", "tap-{}", "DeepStack merger {}"),
    (r"vision\.merger", "merger", "merger"),
    (r"vision\.", "patches", "patch embedding"),
    (r"text\.embed_tokens", "embedding", "token embedding"),
    (r"text\.inputs_embeds", "scatter", "scatter"),
    (r"text\.(?:rope_|causal_mask)", "rope", "RoPE and mask"),
    (r"text\.position_ids", "inputs", "inputs"),
    (r"text\.layers\.\d+\..*_cache", "cache", "KV cache"),
    (r"text\.layers\.(\d+)\.deepstack", "add-{}", "DeepStack add {}"),
    (r"text\.layers\.(\d+)\.", "layer-{}", "layer {}"),
    (r"text\.norm", "norm", "final norm"),
    (r"logits", "logits", "logits"),
    (r"generation\.", "generation", "generation"),
    (r"(?:forward|prefill_last|decode)\.", "calls", "other calls"),
    (r"refused\.", "refusals", "refusals"),
    (r"(?:input_ids|attention_mask|image_|video_|rope_delta)", "inputs", "inputs"),
)
_COMPILED = tuple((re.compile(pattern), name, title) for pattern, name, title in _PARTS)


@dataclass(frozen=True)
class Row:
    """One seam: its worst value over all steps and cases.

    ``link`` leads to where that value is listed. ``starts`` says that a fault starts here: the part is wrong by itself,
    or it is the first divergence of the run.
    """

    seam: str
    status: str
    ratio: float | None
    figure: float | None
    gate: float | None
    comparison: str
    step: str
    case: str | None
    values: int
    failed: int
    link: str | None
    exact: bool
    starts: bool = False

    @property
    def tone(self) -> str:
        return tone(self.status, self.ratio, exact=self.exact)


@dataclass(frozen=True)
class Part:
    """A part of the model with its seams, the worst first."""

    id: str
    title: str
    rows: tuple[Row, ...]

    @property
    def worst(self) -> Row:
        return self.rows[0]

    @property
    def tone(self) -> str:
        return self.worst.tone

    @property
    def failed(self) -> int:
        """Number of values that fail or were not compared."""
        return sum(row.failed for row in self.rows)

    @property
    def values(self) -> int:
        return sum(row.values for row in self.rows)

    @property
    def figure(self) -> str:
        """What the drawing says about the part, in a few characters."""
        row = self.worst
        if row.ratio is None:
            return fmt.GLYPHS[row.status]
        mark = f"{fmt.GLYPHS['diverged']} " if row.failed and row.ratio <= 1 else ""
        return f"{mark}{_short(row.ratio)}"

    @property
    def starts(self) -> bool:
        """Whether a fault starts in this part."""
        return any(row.starts for row in self.rows)

    @property
    def sentence(self) -> str:
        """What is known about the part, for the pointer and for a screen reader."""
        row = self.worst
        state = f"{fmt.plural(self.failed, 'value')} of {self.values:,} failed. " if self.failed else ""
        what = f"Nearest to its gate: {row.seam}, {fmt.ratio(row.ratio)} the gate" if not self.failed else (
            f"Worst: {row.seam}, {fmt.words(row.status)}"
            + (f", {fmt.ratio(row.ratio)} the gate" if row.ratio is not None else "")
        )  # fmt: skip
        if row.ratio is None and not self.failed:
            what = f"All {self.values:,} values are equal"
        return f"{self.title}. {state}{what}.{' A fault starts here.' if self.starts else ''}"


def _short(ratio: float) -> str:
    """A ratio in at most five characters, never rounded across the gate."""
    if ratio == 0:
        return f"0{fmt.TIMES}"
    if ratio >= 10:
        power = next((power for power in (9, 6, 3) if ratio >= 10**power), 0)
        suffix = {0: "", 3: "k", 6: "M", 9: "G"}[power]
        scaled = ratio / 10**power
        return f"{scaled:.0f}{suffix}{fmt.TIMES}" if scaled < 1000 else f">1T{fmt.TIMES}"
    cut = math.floor(ratio * 100) / 100 if ratio <= 1 else math.ceil(ratio * 10) / 10
    return f"{cut:.2f}{fmt.TIMES}" if ratio <= 1 else f"{cut:.1f}{fmt.TIMES}"


def tone(status: str, ratio: float | None, *, exact: bool = False) -> str:
    """Return the colour class of a value: by its ratio, or ``over`` for anything that is not ok."""
    if status != "ok":
        return "over"
    if ratio is None:
        return "exact" if exact else "none"
    return next((name for most, name in _TONES if ratio <= most), "over")


def part_of(seam: str, group: str) -> tuple[str, str]:
    """Return id and title of the part that a seam belongs to."""
    if group == "weights":
        return "weights", "weights"
    for pattern, name, title in _COMPILED:
        found = pattern.match(seam)
        if found:
            index = found[1] if found.groups() else ""
            return name.format(index), title.format(index)
    return "other", "other seams"


def parts_of(rows: Iterable[tuple[str, Row]]) -> dict[str, Part]:
    """Collect rows, each with its group, into parts. Seams that fail come first, then those nearest to the gate."""
    titles: dict[str, str] = {}
    found: dict[str, list[Row]] = {}
    for group, row in rows:
        name, title = part_of(row.seam, group)
        titles[name] = title
        found.setdefault(name, []).append(row)
    return {name: Part(name, titles[name], tuple(sorted(own, key=_urgency))) for name, own in found.items()}


def _urgency(row: Row) -> tuple[bool, float]:
    return row.status == "ok", -(row.ratio if row.ratio is not None else 0.0)


def of_findings(findings: Sequence[Mapping[str, Any]], first: int | None) -> dict[str, Part]:
    """Return the parts of a single run: each seam with its worst step. ``first`` is the index of its divergence."""
    seams: dict[str, list[Mapping[str, Any]]] = {}
    for finding in findings:
        seams.setdefault(finding["seam"], []).append(finding)
    return parts_of((own[0]["group"], _of_seam(own, first)) for own in seams.values())


def _of_seam(findings: Sequence[Mapping[str, Any]], first: int | None) -> Row:
    failing = [finding for finding in findings if finding["status"] != "ok"]
    worst = max(failing or findings, key=lambda finding: _nearest(finding)[0] or 0.0)
    ratio, comparison = _nearest(worst)
    of = worst if comparison == "accumulated" else worst["isolated"]
    return Row(
        seam=worst["seam"],
        status=next((status for status in _WORST if any(f["status"] == status for f in failing)), "ok"),
        ratio=ratio,
        figure=of["figure"] if of["figure"] is not None else worst["mismatches"],
        gate=of["gate"],
        comparison=comparison,
        step=worst["step"],
        case=None,
        values=len(findings),
        failed=len(failing),
        link=f"#f-{worst['index']}",
        exact=worst["gate_kind"] != "float",
        starts=any(f["index"] == first or f["origin"] == "starts here" for f in failing),
    )


def _nearest(finding: Mapping[str, Any]) -> tuple[float | None, str]:
    """The larger of the two ratios of a value, and the comparison that it is of."""
    alone = (finding["isolated"] or {}).get("ratio")
    own = finding["ratio"]
    if alone is not None and (own is None or alone > own):
        return alone, "isolated"
    return own, "accumulated"


def of_seams(seams: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> dict[str, Part]:
    """Return the parts of a sign-off from the ``seams`` of its document. ``links`` leads to each item."""
    return parts_of(
        (
            seam["group"],
            Row(
                **{name: seam[name] for name in _COPIED},
                case=seam["item"],
                link=links.get(seam["item"]),
                exact=seam["gate_kind"] != "float",
                starts=seam["starts_here"] > 0,
            ),
        )
        for seam in seams
    )


_COPIED = ("seam", "status", "ratio", "figure", "gate", "comparison", "step", "values", "failed")
