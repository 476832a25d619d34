"""What the evidence says by itself: where it starts, in which component, for which kinds of token, steps and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from parity.core.compare import Finding
from parity.core.trace import SeamKey, Trace
from parity.diagnosis.evidence import Residue
from parity.mutants.base import seam_pattern
from parity.mutants.registry import ALL

_SHOWN = 4


@dataclass(frozen=True)
class Symptoms:
    """What the failing values of a trace have in common.

    ``seam`` and ``step`` say where it first fails. ``after`` is the last value before it that was given and is right;
    ``not_given`` counts those between. ``components`` are those that known mistakes at these seams belong to, the
    likeliest first. ``kinds`` and ``steps`` are those with a failing row; ``sound_kinds`` have none.
    """

    seam: str
    call: int
    step: str
    after: str | None
    not_given: int
    components: Sequence[str]
    kinds: Sequence[str]
    sound_kinds: Sequence[str]
    steps: Sequence[str]
    rows_failed: int
    rows: int
    worst_row: str | None

    def sentence(self) -> str:
        """Return it in words."""
        where = f"first wrong at {self.seam} ({self.step})"
        if self.after is not None and self.not_given:
            where += f", right at {self.after}; {self.not_given} seams between were not given"
        tokens = f"{', '.join(self.kinds)} tokens" if self.kinds else "no single kind of token"
        if self.kinds and self.sound_kinds:
            tokens += f" ({', '.join(self.sound_kinds)} are right)"
        return (
            f"{where}; component {' or '.join(self.components[:_SHOWN]) or 'unknown'}; {tokens}; "
            f"{_some(self.steps)}; {self.rows_failed} of {self.rows} rows"
        )


def _some(steps: Sequence[str]) -> str:
    """Name the first steps, and how many follow."""
    more = len(steps) - _SHOWN
    return ", ".join(steps[:_SHOWN]) + (f" and {more} more steps" if more > 0 else "")


def symptoms(findings: Sequence[Finding], first: SeamKey) -> Symptoms:
    """Read the symptoms from the findings of a trace, in the order of the computation."""
    at = next(place for place, finding in enumerate(findings) if finding.entry.key == first)
    good = [place for place in range(at) if findings[place].passed]
    # Values of the same step are made one from another; what comes before them is another part.
    after = good[-1] if good else None
    gap = findings[(after + 1 if after is not None else 0) : at]
    failing = [finding for finding in findings if finding.compared and not finding.passed]
    kinds: Counter[str] = Counter()
    seen: set[str] = set()
    for finding in failing:
        seen |= set(finding.by_kind)
        kinds.update(kind for kind, ratio in finding.by_kind.items() if ratio > 1)
        if finding.worst_kind is not None and finding.entry.gate != "float" and finding.entry.rows is not None:
            kinds[finding.worst_kind] += 1
    finding = findings[at]
    return Symptoms(
        finding.entry.key.name,
        finding.entry.key.call,
        finding.entry.step,
        None if after is None else str(findings[after].entry.key),
        len(gap),
        components([finding, *reversed(gap)]),
        list(kinds),
        sorted(seen - set(kinds)),
        list(dict.fromkeys(item.entry.step for item in failing)),
        sum(item.rows_failed for item in failing),
        sum(item.rows for item in findings if item.compared),
        finding.worst_row,
    )


def symptoms_of_tokens(before: Mapping[SeamKey, Residue], reference: Trace) -> Symptoms:
    """Read what log-probabilities alone say: which steps are wrong, and in how many rows of the batch."""
    failing = {key: residue for key, residue in before.items() if not residue.passed}
    first = next(iter(failing))
    entries = reference.entries()
    return Symptoms(
        first.name,
        first.call,
        entries[first].step,
        next((str(key) for key, residue in before.items() if residue.passed and key.call < first.call), None),
        0,
        [],
        [],
        [],
        [entries[key].step for key in failing],
        sum(residue.rows_failed for residue in failing.values()),
        sum(residue.rows for residue in before.values()),
        None,
    )


def components(findings: Sequence[Finding]) -> list[str]:
    """Return the components of the known mistakes that are made at these values, the commonest first."""
    found: Counter[str] = Counter()
    for finding in findings:
        name, step = finding.entry.key.name, finding.entry.step
        here = [
            mutant.component
            for mutant in ALL
            if seam_pattern(mutant.seam).fullmatch(name) and fnmatchcase(step, mutant.step)
        ]
        found.update(here or [_fallback(name)])
    return [name for name, _ in found.most_common()]


def _fallback(seam: str) -> str:
    """The component of a seam at which no mistake is known."""
    for part, component in _COMPONENTS.items():
        if part in seam:
            return component
    return "text-attn"


_COMPONENTS: Mapping[str, str] = {
    "processor.": "processor",
    "_cache": "kv-cache",
    "vision.rope": "vision-rope",
    "vision.p": "patch-embed",
    "vision.embed": "pos-embed",
    "vision.merger": "merger",
    "deepstack": "deepstack",
    "vision.": "vision-attn",
    "rope_delta": "mrope-index",
    "position_ids": "mrope-index",
    "text.rope": "text-rope",
    "causal_mask": "mask",
    "embed": "embedding",
    "mlp": "text-mlp",
    "logits": "lm-head",
    "text.norm": "lm-head",
    "pixels": "preprocess",
    "_ids": "inputs",
    "_mask": "inputs",
    "_grid": "inputs",
}
