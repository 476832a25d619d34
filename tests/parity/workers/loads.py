"""Counts how often models are loaded, and measures the time, with and without cases grouped by checkpoint.

``python -m tests.parity.workers.loads``: a handful of cases of the suite, whose checkpoints take turns, in one process
and in two, in the order of the list and grouped. Exit code 1 if two lines of a case differ.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import port
from parity.cases.registry import chosen_cases
from parity.cli.command import here
from parity.cli.errors import quiet_libraries
from parity.documents.suite_case import case_task, run_suite_case
from parity.milestones.suite import by_checkpoint
from parity.workers import state
from parity.workers.base import Workers, run_tasks
from parity.workers.here import ThisProcess
from parity.workers.processes import Processes
from reference.model import ReferenceModel

CASES = ("text", "tied", "batch-2-text", "tied-with-head", "strip", "batch-3-tied", "batch-2-left", "tied-weights")


def counted(task: dict[str, Any]) -> dict[str, Any]:
    """Run a case of the suite. Returns its line, the loads so far in this process, and its processor seconds."""
    loads = state.kept("loads", _counting)
    answer = run_suite_case(task)
    times = os.times()
    return {"line": answer["line"], "loads": len(loads), "pid": os.getpid(), "seconds": times.user + times.system}


def _counting() -> list[str]:
    loads: list[str] = []

    def counting(load: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            loads.append(str(arguments[0]))
            return load(*arguments, **options)

        return counted

    setattr(port, "load_model", counting(port.load_model))  # noqa: B010
    setattr(ReferenceModel, "load", counting(ReferenceModel.load))  # noqa: B010
    return loads


def measure(workers: Workers, *, grouped: bool) -> tuple[list[Any], int, float, float]:
    """Return the lines of the cases, the loads, and the seconds of the wall and of the processors."""
    named = importlib.import_module("tests.parity.workers.loads")  # not __main__, which other processes do not have
    cases = chosen_cases(CASES)
    cases = by_checkpoint(cases) if grouped else cases
    environment = here(threads=1)
    tasks = [case_task(case, dtype="float32", threads=1, environment=environment) for case in cases]
    tasks = [task if grouped else {**task, "group": ""} for task in tasks]
    start, before = time.perf_counter(), os.times()
    with workers:
        found = dict(run_tasks(workers, named.counted, tasks))
    wall = time.perf_counter() - start
    own = os.times()
    used = own.user + own.system - before.user - before.system
    used += own.children_user + own.children_system - before.children_user - before.children_system
    last: dict[int, int] = {}
    for answer in found.values():
        last[answer["pid"]] = max(last.get(answer["pid"], 0), answer["loads"])
    lines = {case.name: {**found[place]["line"], "seconds": 0} for place, case in enumerate(cases)}
    return [lines[name] for name in CASES], sum(last.values()), wall, used


def main() -> int:
    """Print the table. Returns 1 if any line differs."""
    expected, equal = None, True
    print(f"{len(CASES)} cases, one thread each {'':8} {'loads':>6} {'wall':>9} {'processor':>11}")
    for count, grouped in ((1, False), (1, True), (2, False), (2, True)):
        found, loads, wall, used = measure(ThisProcess() if count == 1 else Processes(count), grouped=grouped)
        expected = expected or found
        equal = equal and found == expected
        what = f"{count} worker{'s' * (count > 1)}, {'grouped' if grouped else 'as listed'}"
        print(
            f"{what:32} {loads:6} {wall:8.1f} s {used:9.1f} s  {'equal' if found == expected else 'DIFFERENT'}",
            flush=True,
        )
    return 0 if equal else 1


if __name__ == "__main__":
    with quiet_libraries(debug=False):
        sys.exit(main())
