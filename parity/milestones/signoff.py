"""Verdicts of milestones from their evidence and waivers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any

from parity.core.verdict import Judgement, Verdict
from parity.milestones.plan import Item, Phase, Waiver, requires_less
from parity.milestones.records import evidence as figures


class SignOff(Enum):
    """What a milestone is. The value is the exit code."""

    SIGNED_OFF = 0
    REFUSED = 1
    INVALID = 2
    INCOMPLETE = 3

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


# The worst first. A failure is a failure, whatever else is missing.
_WORST = (SignOff.REFUSED, SignOff.INVALID, SignOff.INCOMPLETE, SignOff.SIGNED_OFF)
_OF_ITEMS = {
    Verdict.DIVERGED: SignOff.REFUSED,
    Verdict.INVALID: SignOff.INVALID,
    Verdict.INCOMPLETE: SignOff.INCOMPLETE,
    Verdict.PARITY: SignOff.SIGNED_OFF,
}


@dataclass(frozen=True)
class ItemVerdict:
    """The verdict of an item. ``waiver`` is the one that covers its failure."""

    item: Item
    judgement: Judgement
    waiver: Waiver | None = None


@dataclass(frozen=True)
class MilestoneVerdict:
    """The verdict of a milestone with its reason. ``waivers`` are those of its phase, used or not."""

    phase: Phase
    verdict: SignOff
    reason: str
    items: tuple[ItemVerdict, ...]
    waivers: tuple[Waiver, ...]
    less: str

    @property
    def waived(self) -> int:
        """Number of failures that waivers cover."""
        return sum(item.waiver is not None for item in self.items)

    @property
    def label(self) -> str:
        """The verdict with its waivers, such as SIGNED OFF with 1 waiver."""
        return _with_waivers(self.verdict, self.waived)


def judge_milestone(
    phase: Phase, evidence: Mapping[str, Mapping[str, Any]], waivers: Sequence[Waiver], *, today: date
) -> MilestoneVerdict:
    """Judge a milestone. An item without evidence is missing. A waiver covers a failure, not what is missing."""
    own = tuple(waiver for waiver in waivers if waiver.phase == phase.number)
    by_item = {waiver.item: waiver for waiver in own}
    cases = [evidence[item.id] for item in phase.cases if item.id in evidence]
    items, found = [], []
    for item in phase.items:
        judgement = _judged(item, evidence, cases)
        waiver = by_item.get(item.id)
        verdict, why, used = _OF_ITEMS[judgement.verdict], judgement.reason, False
        if waiver is not None and judgement.verdict is Verdict.PARITY:
            verdict, why = SignOff.INVALID, "its waiver is no longer needed, as it passes; remove the waiver"
        elif waiver is not None and judgement.verdict is Verdict.DIVERGED:
            used = today <= waiver.expires
            why = f"{why} (its waiver expired on {waiver.expires})" if not used else why
            verdict = SignOff.SIGNED_OFF if used else verdict
        items.append(ItemVerdict(item, judgement, waiver if used else None))
        found.append((verdict, f"{item.id}: {why}"))
    worst = next(verdict for verdict in _WORST if any(verdict is other for other, _ in found))
    return MilestoneVerdict(phase, worst, _reason(worst, found, items), tuple(items), own, requires_less(phase))


def _judged(item: Item, evidence: Mapping[str, Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]) -> Judgement:
    if item.id not in evidence:
        return Judgement(Verdict.INCOMPLETE, "it was not run", None, 0, 0, 0)
    return figures.verdict_of(item, evidence[item.id], cases)


def _reason(worst: SignOff, found: Sequence[tuple[SignOff, str]], items: Sequence[ItemVerdict]) -> str:
    if worst is SignOff.SIGNED_OFF:
        waived = [item.item.id for item in items if item.waiver is not None]
        passed = f"{len(items) - len(waived)} of {len(items)} required items passed" if waived else (
            f"all {len(items)} required items passed"
        )  # fmt: skip
        return f"{passed}; waived: {', '.join(waived)}" if waived else passed
    reasons = [why for verdict, why in found if verdict is worst]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def total(milestones: Sequence[MilestoneVerdict], *, of: int) -> tuple[SignOff, str]:
    """Return the worst verdict and its reason. ``of`` is the number of milestones in the file."""
    worst = next(verdict for verdict in _WORST if any(verdict is found.verdict for found in milestones))
    named = [found for found in milestones if found.verdict is worst]
    count = f"{len(named)} of {len(milestones)} milestones"
    chosen = f" (the file has {of})" if of > len(milestones) else ""
    if worst is SignOff.SIGNED_OFF:
        return worst, f"{count} signed off{chosen}"
    first = named[0]
    return worst, f"{count} {worst.label.lower()}{chosen}; phase {first.phase.number}: {first.reason}"


def total_label(milestones: Sequence[MilestoneVerdict], worst: SignOff) -> str:
    """Return the verdict over all milestones with the number of waivers."""
    return _with_waivers(worst, sum(found.waived for found in milestones))


def _with_waivers(verdict: SignOff, waived: int) -> str:
    if not waived or verdict is not SignOff.SIGNED_OFF:
        return verdict.label
    return f"{verdict.label} with {waived} waiver{'s' if waived > 1 else ''}"
