"""Runs a small kill matrix on local clusters of single-thread workers, and measures what a task costs there.

``python -m tests.parity.workers.clusters``: for each size, whether the outcomes equal those of one process, the
seconds, and the processor seconds of all processes; then the same with a worker killed in the middle; then the
overhead of a task and the data that is sent for it. Exit code 1 if any outcome differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
from distributed import LocalCluster

from parity.cases.case import Case
from parity.cases.registry import chosen_cases
from parity.cli.errors import quiet_libraries
from parity.milestones.keys import installed
from parity.mutants.matrix import OnCase
from parity.mutants.registry import chosen
from parity.mutants.spread import spread_matrix, to_json
from parity.workers.base import Workers, run_tasks
from parity.workers.cluster import Cluster, installation, run_there
from parity.workers.here import ThisProcess
from parity.workers.messages import message
from parity.workers.processes import Processes
from tests.parity.workers import samples

CASES = (
    "text",
    "conv3d-tiny",
    "conv3d-odd",
    "conv3d-bfloat16",
    "tied-weights",
    "other-shape-weights",
    "stored-float16",
)
MUTANTS = ("final-norm-skipped", "text-v-normed", "conv3d-weight-frames-reversed")
NOTHING = 2000


def matrix(workers: Workers, cases: Sequence[Case], finished: Any = lambda _case, _found: None) -> list[OnCase]:
    """Run the kill matrix on some workers."""
    with workers:
        return spread_matrix(chosen(MUTANTS), cases, workers, dtype="float32", earlier={}, finished=finished)


def local(count: int) -> LocalCluster:
    """Start a scheduler and ``count`` workers with one thread each, every one a process of its own."""
    return LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=50)


def processor_seconds() -> float:
    """Return the processor time of this process and all below it, those that have ended included."""
    own = os.times()
    living = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))
    return own.user + own.system + own.children_user + own.children_system + living


def main(arguments: Sequence[str]) -> int:
    """Print the table. Returns 1 if any outcome differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 4, 8])
    options = parser.parse_args(arguments)
    cases = chosen_cases(CASES)
    expected, equal = matrix(ThisProcess(), cases), True

    def line(what: str, found: list[OnCase], wall: float, used: float) -> None:
        nonlocal equal
        equal = equal and found == expected
        print(f"{what:44} {'equal' if found == expected else 'DIFFERENT':10} {wall:6.1f} s  {used:6.1f} s", flush=True)

    print(f"{'':44} {'outcomes':10} {'wall':>8}  {'processor':>8}")
    before, start = processor_seconds(), time.perf_counter()
    line("this process, again", matrix(ThisProcess(), cases), time.perf_counter() - start, processor_seconds() - before)
    before, start = processor_seconds(), time.perf_counter()
    line("2 processes", matrix(Processes(2), cases), time.perf_counter() - start, processor_seconds() - before)
    for size in options.sizes:
        with local(size) as cluster:
            before, start = processor_seconds(), time.perf_counter()
            found = matrix(Cluster(cluster.scheduler_address, installed), cases)
            line(f"{size} workers of a cluster", found, time.perf_counter() - start, processor_seconds() - before)
    with local(2) as cluster:
        executor = Cluster(cluster.scheduler_address, installed)
        killed: list[int] = []

        def kill_a_busy_one(_case: Case, _found: OnCase) -> None:
            busy = [address for address, keys in executor._client.processing().items() if keys]
            if busy and not killed:
                process = cluster.workers[next(n for n, w in cluster.workers.items() if w.worker_address == busy[0])]
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

        before, start = processor_seconds(), time.perf_counter()
        found = matrix(executor, cases, kill_a_busy_one)
        line(f"2 workers, {len(killed)} killed", found, time.perf_counter() - start, processor_seconds() - before)
    with local(2) as cluster, Cluster(cluster.scheduler_address, installed) as executor:
        executor.ahead = 200
        tasks = [{"number": number} for number in range(NOTHING)]
        list(run_tasks(executor, samples.double, tasks[:50]))
        start = time.perf_counter()
        list(run_tasks(executor, samples.double, tasks))
        print(f"a task that does nothing: {1e3 * (time.perf_counter() - start) / NOTHING:.2f} ms")
    sent = message(samples.double, ({"case": CASES[0], "mutants": [mutant.id for mutant in chosen(())]},))
    same = installation(installed)
    answer = run_there(message(samples.double, ({"number": 1},)), *same)
    assert json.loads(answer)["result"] == {"double": 2}
    print(f"sent for a task with every mutant: {len(sent) + sum(map(len, same)):,} bytes")
    print(f"the answer of a case with {len(MUTANTS)} mutants: {len(json.dumps(to_json(expected[0]))):,} bytes")
    return 0 if equal else 1


if __name__ == "__main__":
    with quiet_libraries(debug=False):
        sys.exit(main(sys.argv[1:]))
