"""Performance as a condition of a milestone: slower or more work is refused, and times change no digest."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest

from parity.bench.counts import Counts
from parity.bench.machine import machine_class
from parity.bench.ratios import Pairs, Ratio
from parity.bench.session import Measured
from parity.bench.works import Sides, Work
from parity.core.digest import checkpoint_digest
from parity.core.verdict import Verdict
from parity.milestones import performance
from parity.milestones.performance import judged
from parity.milestones.plan import Item, Milestones, standard
from parity.milestones.records import verify
from parity.milestones.records.evidence import TESTS, Content, of_error, verdict_of
from parity.milestones.records.record import evidence_seals, record_digest, seals
from parity.milestones.records.verify import Record
from parity.runs.loader import Loader
from port import load_model
from reference.trained import trained_checkpoint
from tests.parity.milestones.samples import PLAN, TODAY, plan, record, with_contents

COUNTS = Counts(flops=10, bytes_read=20, calls=30, peak_bytes=40)
CHECK = Item("performance", "check", "performance")
FEWER = PLAN.replace('{ name = "relations", examples = 2 }', '{ name = "performance", seconds = 5 }')


class _Port:
    model = load_model(trained_checkpoint())


SIDES = Sides(cast(Any, _Port()), cast(Any, None), trained_checkpoint())
CLASS = machine_class(SIDES.model, threads=1, clock="processor")
ACCEPTED = {CLASS: {checkpoint_digest(SIDES.folder): {"prefill": {"ratio": 1.5, "counts": COUNTS.to_json()}}}}
ELSEWHERE = {"another machine": ACCEPTED[CLASS]}


def measured(ratio: float = 1.5, counts: Counts = COUNTS) -> Measured:
    """A session with an interval of 2 % and a noise of 2 %."""
    work = Work("prefill", "prefill of 8 tokens", 8, "tokens", cast(Any, None), cast(Any, None))
    around = Ratio(ratio, ratio * 0.98, ratio * 1.02, 60)
    return Measured(work, Pairs((1.0,), (ratio,)), around, Ratio(1.0, 1 / 1.02, 1.01, 60), counts, None)


def content(ratio: float = 1.5, counts: Counts = COUNTS, accepted: dict[str, Any] = ACCEPTED) -> Content:
    return judged([measured(ratio, counts)], SIDES, accepted)


def outcomes(found: Content) -> dict[str, str]:
    return {cells[TESTS.index("name")]: cells[TESTS.index("outcome")] for cells in found["tests"]}


def test_the_last_milestone_of_the_standard_requires_it() -> None:
    assert [item.id for item in standard().phases[-1].items if item.name == "performance"] == ["performance"]


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        (content(), []),
        (content(1.46), []),
        (content(1.3), ["prefill: time"]),
        (content(counts=Counts(11, 20, 30, 40)), ["prefill: flops"]),
        (content(counts=Counts(10, 21, 31, 41)), ["prefill: bytes_read", "prefill: calls", "prefill: peak_bytes"]),
        (content(counts=Counts(9, 19, 29, 39)), []),
        # On a class of machines without accepted ratios the port is held to the reference.
        (content(1.0, accepted=ELSEWHERE), []),
        (content(0.9, accepted=ELSEWHERE), ["prefill: time"]),
        (content(1.0, Counts(11, 20, 300, 400), accepted=ELSEWHERE), ["prefill: flops"]),
    ],
)
def test_slower_or_more_work_is_refused(found: Content, broken: list[str]) -> None:
    assert [name for name, outcome in outcomes(found).items() if outcome == "broken"] == broken
    assert verdict_of(CHECK, found).verdict is (Verdict.DIVERGED if broken else Verdict.PARITY)


def test_counts_that_were_never_accepted_leave_it_incomplete() -> None:
    found = content(accepted={"another machine": {"0" * 64: {}}})
    assert outcomes(found)["prefill: flops"] == "not exposed"
    assert verdict_of(CHECK, found).verdict is Verdict.INCOMPLETE


def test_a_port_that_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(performance, "measure", broken)
    found = performance.performance({"seconds": 1}, Loader())
    assert found == of_error("RuntimeError: size mismatch", side="subject")
    assert verdict_of(CHECK, found).verdict is Verdict.DIVERGED


@pytest.fixture
def milestones(tmp_path: Path) -> Milestones:
    return plan(tmp_path, FEWER)


def signed_off(milestones: Milestones, found: Content) -> dict[str, Any]:
    return record(milestones, with_contents({"performance": found}))


def faults(statement: dict[str, Any], milestones: Milestones) -> list[str]:
    held = Record(Path("signoff.json"), statement)
    return [*verify.changed(held), *verify.contradicted(held, milestones, today=TODAY)]


def test_other_times_give_the_same_digest_and_other_counts_another(milestones: Milestones) -> None:
    first, again = signed_off(milestones, content()), signed_off(milestones, content(1.52))
    parts = [made["predicate"]["signoff"] for made in (first, again)]
    assert parts[0]["evidence"] != parts[1]["evidence"]
    assert parts[0]["digest"] == parts[1]["digest"]
    assert [faults(made, milestones) for made in (first, again)] == [[], []]
    less = signed_off(milestones, content(counts=Counts(9, 20, 30, 40)))
    assert less["predicate"]["signoff"]["digest"] != parts[0]["digest"]


def test_a_time_that_contradicts_its_outcome_is_found(milestones: Milestones) -> None:
    statement = signed_off(milestones, content())
    test = statement["predicate"]["signoff"]["evidence"]["performance"]["tests"][0]
    test[TESTS.index("figure")] = 1.2
    assert any("prefill: time.figure is 1.2" in fault for fault in faults(statement, milestones))
    refused = signed_off(milestones, content(1.3))
    tests = refused["predicate"]["signoff"]["evidence"]["performance"]["tests"]
    tests[0][TESTS.index("outcome")] = "kept"
    assert any("outcome of prefill: time was changed" in fault for fault in faults(refused, milestones))


def test_only_the_performance_check_has_times(tmp_path: Path) -> None:
    milestones = plan(tmp_path)
    statement = copy.deepcopy(record(milestones))
    part = statement["predicate"]["signoff"]
    part["evidence"]["relations"]["timed"] = ["rows-are-alone"]
    part["evidence"]["relations"]["tests"][0][TESTS.index("figure")] = 1e-15
    part["evidence"]["relations"]["seals"] = evidence_seals(part["evidence"]["relations"])
    part["seals"], part["digest"] = seals(part), record_digest(statement)
    assert any("only performance measures times" in fault for fault in faults(statement, milestones))
