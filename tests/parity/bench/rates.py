"""How often the speed check catches a port that is 15 % slower, and how often it fails one that is not.

Both on times of this machine: pairs of the port with the reference, of the port with itself, and of a port that does
15 % more. Each session draws its pairs from these, in blocks of neighbours, so that what disturbed them together stays
together. Run by ``nox -s perf_rates``; prints the rates, and ends with 1 if they are not good enough.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch

from parity.bench.ratios import (
    ClockName,
    is_slower,
    pairs_wanted,
    ratio_of_logs,
    repeated,
    runs_at_once,
    time_pairs,
    timed,
)
from parity.bench.session import slowed
from parity.bench.works import Sides, Work, decode_work, loaded_sides, prefill_work, sizes_of, vision_work
from reference.trained import trained_checkpoint

SLOWER, BLOCK = 0.15, 5
CAUGHT, FAILED = 0.95, 0.01  # at least, at most


def logs(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    found: np.ndarray = np.log(np.asarray(second) / np.asarray(first))
    return found


def session_rates(
    plain: np.ndarray, control: np.ndarray, slow: np.ndarray, *, pairs: int, sessions: int
) -> tuple[float, float]:
    """Shares of sessions in which the slow port, and in which the unchanged port is called slower."""
    rng = np.random.default_rng(0)
    accepted = ratio_of_logs(plain).middle

    def drawn(values: np.ndarray) -> np.ndarray:
        starts = rng.integers(0, len(values) - BLOCK + 1, size=-(-pairs // BLOCK))
        return np.concatenate([values[start : start + BLOCK] for start in starts])[:pairs]

    called = {"slow": 0, "plain": 0}
    for seed in range(sessions):
        noise = ratio_of_logs(drawn(control), seed=seed)
        for name, values in (("slow", slow), ("plain", plain)):
            called[name] += is_slower(ratio_of_logs(drawn(values), seed=seed), noise, accepted)
    return called["slow"] / sessions, called["plain"] / sessions


def timed_logs(sides: Sides, work: Work, pairs: int, clock: ClockName) -> tuple[int, dict[str, np.ndarray]]:
    """The pairs that the check would time, and log-ratios of ``pairs`` pairs of each kind, their blocks interleaved."""
    port, reference, slow = work.port(), work.reference(), slowed(work, SLOWER).port()
    for run in (port, reference, slow):
        run()
    warm = [timed(run) for run in (port, reference)]
    times = runs_at_once(warm[0])
    one, two, three = (repeated(run, times) for run in (port, reference, slow))
    found: dict[str, list[np.ndarray]] = {"plain": [], "control": [], "slow": []}
    for _ in range(-(-pairs // BLOCK)):
        for name, (first, second) in {"plain": (one, two), "control": (one, one), "slow": (three, two)}.items():
            block = time_pairs(first, second, BLOCK, clock)
            found[name].append(logs(block.first, block.second))
    return pairs_wanted(times * sum(warm), 5.0), {name: np.concatenate(parts) for name, parts in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--sessions", type=int, default=300)
    parser.add_argument("--clock", choices=["wall", "processor"], default="processor")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sides = loaded_sides(trained_checkpoint(), "float32", "fast")
    sizes, good = sizes_of(sides.model), True
    for work in (
        vision_work(sides, pictures=sizes.pictures, side=sizes.side),
        prefill_work(sides, tokens=sizes.prompt),
        decode_work(sides, batch=1, context=sizes.context, steps=sizes.steps),
        decode_work(sides, batch=sizes.batch, context=sizes.context, steps=sizes.steps),
    ):
        wanted, found = timed_logs(sides, work, given.pairs, given.clock)
        caught, failed = session_rates(
            found["plain"], found["control"], found["slow"], pairs=wanted, sessions=given.sessions
        )
        spread = float(np.median(np.abs(found["control"] - np.median(found["control"]))))
        print(
            f"{work.name}: {wanted} pairs a session, spread of a pair {spread:.1%}; 15 % slower caught in {caught:.1%}"
            f", no change failed in {failed:.1%} of {given.sessions} sessions",
            flush=True,
        )
        good = good and caught >= CAUGHT and failed <= FAILED
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
