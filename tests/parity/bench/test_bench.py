"""Speed: the statistics on made-up times, counts that are always the same, and the check with planted faults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.bench.beside import beside_mistralrs
from parity.bench.check import accept, check, read_accepted, shipped
from parity.bench.counts import Counts, count
from parity.bench.limits import measure_limits
from parity.bench.machine import machine_class
from parity.bench.names import WORK_NAMES
from parity.bench.ratios import Pairs, Ratio, is_slower, pairs_wanted, ratio_of, ratio_of_logs, time_pairs, timed
from parity.bench.session import Measured, expected_seconds, pieces, run_session, slowed, works
from parity.bench.taps import TapCost, tap_cost
from parity.bench.verdict import time_to_verdict
from parity.bench.works import (
    SMALL,
    Sides,
    Work,
    decode_work,
    load_work,
    loaded_sides,
    prefill_work,
    vision_work,
)
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines.mistralrs_timed import TimedMistralRs
from port.kernels import FastKernels, PlainKernels, kernels_of, set_kernels
from port.tap import Tap
from reference.trained import trained_checkpoint
from tests.parity.bench.rates import session_rates
from tests.parity.cli.samples import call

SAME = Ratio(1.0, 0.98, 1.02, 20)
COUNTS = Counts(flops=10, bytes_read=20, calls=30, peak_bytes=40)


@pytest.fixture(scope="module")
def sides() -> Sides:
    return loaded_sides(trained_checkpoint(), "float32", "fast")


# -- statistics --------------------------------------------------------------------------------------------------


def test_pairs_are_timed_in_the_order_a_b_b_a() -> None:
    order: list[str] = []
    time_pairs(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert "".join(order) == "abbaab"


def test_a_drift_of_the_machine_does_not_change_a_ratio() -> None:
    drift = np.linspace(1, 3, 40)
    found = ratio_of(Pairs(tuple(drift), tuple(1.5 * drift)))
    assert found.middle == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)
    assert found.pairs == 40


def test_a_few_disturbed_pairs_do_not_decide() -> None:
    rng = np.random.default_rng(1)
    logs = np.log(2) + rng.normal(0, 0.05, 60)
    logs[::10] += 3
    found = ratio_of_logs(logs)
    assert found.low < 2.05
    assert 1.9 < found.middle < 2.15


def test_intervals_are_those_of_their_confidence() -> None:
    rng = np.random.default_rng(0)
    within = [found.low <= 1 <= found.high for found in (ratio_of_logs(rng.normal(0, 0.1, 40)) for _ in range(100))]
    assert 0.8 <= np.mean(within) <= 0.98


def test_how_many_pairs_is_planned_from_the_time_of_one() -> None:
    assert pairs_wanted(0.01, 5) == 60
    assert pairs_wanted(0.4, 5) == 60, "at least 20 where a run is short"
    assert pairs_wanted(30, 5) == 6


def test_the_check_catches_15_percent_and_passes_what_has_not_changed() -> None:
    """On made-up times: a pair is off by 10 %, a fifth of them by 30 %. ``nox -s perf_rates`` does it on real ones."""
    rng = np.random.default_rng(2)

    def logs(middle: float) -> np.ndarray:
        spread = np.where(rng.random(600) < 0.2, 0.3, 0.1)
        found: np.ndarray = middle + rng.normal(0, 1, 600) * spread
        return found

    plain, control, slow = logs(np.log(1.6)), logs(0), logs(np.log(1.6 / 1.15))
    caught, failed = session_rates(plain, control, slow, pairs=60, sessions=100)
    assert caught >= 0.95
    assert failed <= 0.01


@pytest.mark.parametrize(
    ("found", "noise", "slower"),
    [
        (Ratio(1.5, 1.4, 1.6, 20), 1.02, False),
        (Ratio(1.2, 1.1, 1.3, 20), 1.02, True),
        (Ratio(1.4, 1.38, 1.44, 20), 1.02, True),
        (Ratio(1.4, 1.38, 1.44, 20), 1.05, False),
        (Ratio(3.0, 2.9, 3.1, 20), 1.02, False),
    ],
)
def test_slower_means_the_whole_interval_by_more_than_the_noise(found: Ratio, noise: float, slower: bool) -> None:
    assert is_slower(found, Ratio(1.0, 1 / noise, 1.0, 20), 1.5) is slower
    assert is_slower(found, Ratio(1.0, 1.0, noise, 20), 1.5) is slower


# -- works and counts --------------------------------------------------------------------------------------------


def test_every_work_runs_on_both_sides_and_starts_each_run_from_the_same_state(sides: Sides) -> None:
    made = [
        vision_work(sides, pictures=2, side=4),
        prefill_work(sides, tokens=9),
        decode_work(sides, batch=3, context=8, steps=2),
        load_work(sides),
    ]
    for work in made:
        for run in (work.port(), work.reference()):
            run()
            run()
    assert pieces(SMALL, curves=False) == 7


@pytest.mark.parametrize("side", ["port", "reference"])
def test_rewinding_forgets_what_was_decoded(sides: Sides, side: str) -> None:
    inputs = {"input_ids": torch.tensor([[5, 6, 7], [5, 9, 8]]), "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])}
    session = getattr(sides, side).session(inputs, steps=2)
    session.prefill()
    token = torch.tensor([[4], [11]])
    first = [session.decode(token), session.decode(token + 1)]
    session.rewind()
    session.decode(token + 2)
    session.rewind()
    again = [session.decode(token), session.decode(token + 1)]
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)


def test_counts_are_the_same_each_time_and_leave_the_kernels_alone(sides: Sides) -> None:
    kernels = kernels_of(sides.model)
    work = decode_work(sides, batch=2, context=8, steps=1)
    found = count(sides.model, work.port)
    assert count(sides.model, work.port) == found
    assert kernels_of(sides.model) is kernels
    config = sides.model.config.text
    matrices = sum(p.numel() for n, p in sides.model.named_parameters() if "language" in n and p.ndim == 2)
    assert found.flops >= 2 * 2 * matrices, "every matrix is multiplied with two rows"
    assert found.bytes_read >= 4 * matrices, "and is read"
    assert found.calls > 10 * config.num_hidden_layers
    assert found.peak_bytes > 4 * 2 * config.vocab_size, "the logits"


@pytest.mark.parametrize("work", ["vision", "prefill", "decode", "decode-batch"])
def test_counts_do_not_need_the_products(work: str, sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict(zip(WORK_NAMES, works(sides, SMALL), strict=True))[work]
    quick = count(sides.model, made.port)
    monkeypatch.setattr("parity.bench.counts._PRODUCTS", set())
    assert count(sides.model, made.port) == quick


def test_a_session_of_one_work_measures_it_alone(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("parity.bench.session.pairs_wanted", lambda _seconds, _budget: 4)
    session = run_session(
        sides,
        budget=0.1,
        curves=False,
        clock="wall",
        progress=lambda _: None,
        only=["prefill"],
        finished=lambda measured, seconds: told.append(measured.work.name) if seconds > 0 else None,
    )
    assert [measured.work.name for measured in session.measured] == told == ["prefill"]


def test_one_work_is_not_accepted_for_all() -> None:
    call("bench", "--work", "vision", "--accept", "new.json").refuses("--work and --accept")


class _Twice(PlainKernels):
    """Kernels that compute every gate twice, and keep a copy."""

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        return (super().swiglu(gate, up) + F.silu(gate.clone()) * up) / 2


def test_work_that_is_done_twice_is_counted(sides: Sides) -> None:
    work, kernels = decode_work(sides, batch=2, context=8, steps=1), kernels_of(sides.model)
    try:
        set_kernels(sides.model, PlainKernels())
        before = count(sides.model, work.port)
        set_kernels(sides.model, _Twice())
        after = count(sides.model, work.port)
    finally:
        set_kernels(sides.model, kernels)
    assert after.calls > before.calls
    assert after.bytes_read > before.bytes_read


def test_compiled_kernels_are_counted_and_save_calls(sides: Sides) -> None:
    kernels = kernels_of(sides.model)
    if not isinstance(kernels, FastKernels) or kernels.native is None:
        pytest.skip("no compiled kernels")
    work = decode_work(sides, batch=1, context=8, steps=1)
    fast = count(sides.model, work.port)
    names: list[str] = []
    try:
        set_kernels(sides.model, kernels.counted(names.append))
        work.port()()
        set_kernels(sides.model, PlainKernels())
        plain = count(sides.model, work.port)
    finally:
        set_kernels(sides.model, kernels)
    assert {"linears", "rms_norm", "rotary", "swiglu", "attention"} <= set(names)
    assert fast.calls < 0.7 * plain.calls
    assert (fast.flops, fast.bytes_read) == (plain.flops, plain.bytes_read)


MOST_OF_A_STEP = 0.03  # taps take 0.4 to 0.6 % of a step; looking for NaN in each would take 17 to 20 %


def _taps_of_a_step(sides: Sides) -> TapCost:
    return tap_cost(decode_work(sides, batch=1, context=8, steps=1).port())


def _seconds_of_a_step(sides: Sides) -> float:
    run = decode_work(sides, batch=1, context=8, steps=1).port()
    run()
    return min(timed(run) for _ in range(20))


def test_taps_cost_next_to_nothing_when_nobody_listens(sides: Sides) -> None:
    cost = _taps_of_a_step(sides)
    layers = sides.model.config.text.num_hidden_layers
    assert cost.calls == 13 * layers + 9
    assert 0 < cost.seconds < MOST_OF_A_STEP * _seconds_of_a_step(sides)


def test_taps_that_cost_something_are_seen(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tap.__call__

    def looking(self: Tap, name: str, value: Tensor) -> Tensor:
        assert bool(value.isfinite().all())
        return plain(self, name, value)

    monkeypatch.setattr(Tap, "__call__", looking)
    assert _taps_of_a_step(sides).seconds > MOST_OF_A_STEP * _seconds_of_a_step(sides)


def test_limits_and_the_class_of_the_machine(sides: Sides) -> None:
    limits = measure_limits(torch.float32, side=64, read=2**20)
    assert limits.product_gflops > 0 < limits.read_gbytes
    assert expected_seconds(dataclasses.replace(COUNTS, flops=10**9), limits) == pytest.approx(
        1 / limits.product_gflops
    )
    one, two = (machine_class(sides.model, threads=count_, clock="wall") for count_ in (1, 2))
    assert one != two
    assert "float32" in one


# -- the check ---------------------------------------------------------------------------------------------------


def _measured(ratio: Ratio = SAME, control: Ratio = SAME, counts: Counts | None = COUNTS, name: str = "x") -> Measured:
    def nothing() -> Callable[[], object]:
        return lambda: None

    work = Work(name, name, 1, "tokens", nothing, nothing)
    return Measured(work, Pairs((1.0,), (1.0,)), ratio, control, counts, taps=None)


ACCEPTED: dict[str, Any] = {"m": {"c": {"x": {"ratio": 1.0, "counts": COUNTS.to_json()}}}}


def test_what_is_accepted_passes(tmp_path: Path) -> None:
    accept(tmp_path / "a.json", "m", "c", [_measured()])
    accept(tmp_path / "a.json", "other", "c", [_measured(Ratio(9.0, 8.0, 10.0, 20))])
    assert read_accepted(tmp_path / "a.json")["m"]["c"] == {
        "x": {"ratio": 1.0, "sessions": [1.0], "counts": COUNTS.to_json()}
    }
    found = check(read_accepted(tmp_path / "a.json"), "m", "c", [_measured()])
    assert (found.verdict, found.slower, found.grown) == (Verdict.PARITY, (), ())


def test_the_lowest_of_the_sessions_is_accepted_until_counts_change(tmp_path: Path) -> None:
    file = tmp_path / "a.json"

    def accepted(ratio: float, counts: Counts = COUNTS) -> dict[str, Any]:
        accept(file, "m", "c", [_measured(Ratio(ratio, 0.9 * ratio, 1.1 * ratio, 20), counts=counts)])
        found: dict[str, Any] = read_accepted(file)["m"]["c"]["x"]
        return found

    assert accepted(1.6)["ratio"] == 1.6
    assert accepted(1.5)["ratio"] == 1.5
    assert accepted(1.7) == {"ratio": 1.5, "sessions": [1.6, 1.5, 1.7], "counts": COUNTS.to_json()}
    fewer = dataclasses.replace(COUNTS, calls=1)
    assert accepted(1.8, fewer) == {"ratio": 1.8, "sessions": [1.8], "counts": fewer.to_json()}
    for sessions in (3, [1.6, "1.5"], [-1.0]):
        whole = json.loads(file.read_text(encoding="utf-8"))
        whole["accepted"]["m"]["c"]["x"]["sessions"] = sessions
        file.write_text(json.dumps(whole), encoding="utf-8")
        with pytest.raises(ParityError, match="does not hold accepted figures"):
            read_accepted(file)


def test_slower_fails() -> None:
    found = check(ACCEPTED, "m", "c", [_measured(Ratio(0.85, 0.84, 0.86, 20))])
    assert found.verdict is Verdict.DIVERGED
    assert "slower: x: 0.85 x [0.84, 0.86], accepted 1.00 x, noise 2%" in found.reason


@pytest.mark.parametrize("name", COUNTS.to_json())
def test_every_count_that_grows_fails_and_one_that_shrinks_passes(name: str) -> None:
    more = dataclasses.replace(COUNTS, **{name: getattr(COUNTS, name) + 1})
    found = check(ACCEPTED, "m", "c", [_measured(counts=more)])
    assert found.verdict is Verdict.DIVERGED
    assert found.grown == (f"x: {name} {getattr(more, name)}, accepted {getattr(COUNTS, name)}",)
    less = dataclasses.replace(COUNTS, **{name: getattr(COUNTS, name) - 1})
    assert check(ACCEPTED, "m", "c", [_measured(counts=less)]).verdict is Verdict.PARITY
    uncounted = check(ACCEPTED, "m", "c", [_measured(counts=None)])
    assert len(uncounted.grown) == len(COUNTS.to_json()), "what was not counted has not passed"


def test_missing_evidence_never_passes() -> None:
    assert check(ACCEPTED, "other machine", "c", [_measured()]).verdict is Verdict.INCOMPLETE
    assert check(ACCEPTED, "m", "other checkpoint", [_measured()]).verdict is Verdict.INCOMPLETE
    assert check(ACCEPTED, "m", "c", [_measured(), _measured(name="new")]).verdict is Verdict.INCOMPLETE
    assert check(ACCEPTED, "m", "c", []).verdict is Verdict.INCOMPLETE


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "nonsense",
        '{"format": 2, "accepted": {}}',
        '{"format": 1, "accepted": {"m": 3}}',
        '{"format": 1, "accepted": {"m": {"c": {"x": {"ratio": "1", "counts": null}}}}}',
        '{"format": 1, "accepted": {"m": {"c": {"x": {"ratio": NaN, "counts": null}}}}}',
        '{"format": 1, "accepted": {"m": {"c": {"x": {"ratio": 1, "counts": {"calls": true}}}}}}',
    ],
)
def test_a_file_that_holds_something_else_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ParityError, match=r"a\.json"):
        read_accepted(path)


def test_the_shipped_figures_are_accepted_figures() -> None:
    found = read_accepted(shipped())
    assert found
    assert json.loads(shipped().read_text())["format"] == 1


def test_a_slowed_work_takes_longer() -> None:
    def counting() -> Callable[[], object]:
        return lambda: sum(range(300_000))

    work = Work("x", "x", 1, "tokens", counting, counting)
    pairs = time_pairs(slowed(work, 1.0).port(), work.reference(), 15, "processor")
    assert ratio_of(pairs).middle < 0.75


# -- beside another engine ---------------------------------------------------------------------------------------


@pytest.mark.engine
def test_mistralrs_is_timed_in_pairs_with_the_port(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.bench.beside.pairs_wanted", lambda *_: 6)
    sizes = dataclasses.replace(SMALL, context=8, steps=2)
    prefill, decode = beside_mistralrs(sides, sizes, budget=0.1)
    assert (prefill.name, decode.name) == ("prefill-last", "decode-1")
    assert decode.engine.startswith("mistral.rs ")
    for found in (prefill, decode):
        assert found.ratio.pairs == len(found.pairs.first) == len(found.pairs.second) == 6
        assert min(*found.pairs.first, *found.pairs.second) > 0
        assert found.ratio.low <= found.ratio.middle <= found.ratio.high
    assert prefill.amount > 8  # the words and the chat's own tokens


@pytest.mark.engine
def test_an_engine_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="failed"), TimedMistralRs(tmp_path, dtype="float32", threads=1):
        pass


@pytest.mark.parametrize("words", [("--check",), ("--accept", "x.json"), ("--dtype", "tf32", "--device", "cuda")])
def test_beside_needs_a_plain_session(words: tuple[str, ...]) -> None:
    call("bench", "--beside", "mistralrs", *words).refuses("--beside")


def test_a_verdict_is_timed_beside_its_forwards(sides: Sides) -> None:
    found = time_to_verdict(sides.folder, "float32", sides.device)
    assert found.passes == 11
    assert 1 < found.ratio < 50
