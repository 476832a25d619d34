"""Tasks in processes: a process that dies costs its task another try and nothing else, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from parity.core.errors import ParityError
from parity.workers.base import run_tasks
from parity.workers.choose import check_workers, make_workers, threads_each
from parity.workers.here import ThisProcess
from parity.workers.messages import TaskFailed, WorkerLost, number, plain
from parity.workers.processes import TRIES, Processes
from tests.parity.workers import samples

ROOT = Path(__file__).parents[3]


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [ThisProcess, lambda: Processes(2)], ids=["here", "processes"])
def test_results_and_errors_come_back_and_what_is_said_is_heard(workers: Callable[[], Any]) -> None:
    heard: list[str] = []
    with workers() as executor:
        executor.watch(heard.append)
        tasks = [{"number": number} for number in range(4)]
        assert dict(run_tasks(executor, samples.double, tasks)) == {n: {"double": 2 * n} for n in range(4)}
        assert sorted(heard) == [f"double {number}" for number in range(4)]
        for error, kind, words in (
            ("user", ParityError, "name another folder"),
            ("disk", OSError, "No space left on device"),
            ("memory", MemoryError, "40 GiB"),
            ("other", (KeyError, TaskFailed), "planted"),
        ):
            with pytest.raises(kind, match=words):
                executor.submit(samples.fails, {"error": error}).result()
        assert [executor.submit(samples.counts, {}).result() for _ in range(3)][-1] > 1, "a process keeps its state"


def test_a_process_that_is_killed_costs_its_task_another_try_and_nothing_else(tmp_path: Path) -> None:
    tasks = [{"number": number, "folder": str(tmp_path), "times": int(number == 2)} for number in range(6)]
    with Processes(2) as executor:
        # Only task 2 is told to die, the others would not.
        found = dict(run_tasks(executor, samples.dies, [{**task, "times": task["times"]} for task in tasks]))
    assert found == {number: {"double": 2 * number} for number in range(6)}
    assert len(list(tmp_path.glob("death-*"))) == 1
    assert sorted(path.name[0] for path in tmp_path.glob("[0-9]-*")) == [str(number) for number in range(6)]


def test_a_task_that_always_kills_its_process_is_given_up_and_the_others_finish(tmp_path: Path) -> None:
    tasks = [{"number": number, "folder": str(tmp_path), "times": 100 if number == 1 else 0} for number in range(4)]
    with Processes(2) as executor:
        found = dict(run_tasks(executor, samples.dies, tasks, lost=lambda task, error: (task["number"], str(error))))
    assert [found[number] for number in (0, 2, 3)] == [{"double": 2 * number} for number in (0, 2, 3)]
    place, why = found[1]
    assert place == 1
    assert why == (
        f"its worker process was ended by SIGKILL; the machine may be out of memory; it was tried {TRIES} times"
    )
    assert len(list(tmp_path.glob("death-*"))) == TRIES
    with Processes(1) as executor, pytest.raises(WorkerLost, match="ended with exit code 3; it was tried 3 times"):
        list(run_tasks(executor, samples.leaves, [{}]))


def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}" for number in range(3)]
    executor = Processes(2)
    futures = [executor.submit(samples.sleeps, {"file": str(file)}) for file in files]
    until(lambda: all(file.exists() and file.read_text(encoding="utf-8") for file in files[:2]))
    processes = [psutil.Process(int(file.read_text(encoding="utf-8"))) for file in files[:2]]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    assert time.monotonic() - start < 20
    assert not any(process.is_running() for process in processes)
    assert futures[2].cancelled()
    with pytest.raises(WorkerLost, match="the workers were stopped"):
        futures[0].result(timeout=1)
    assert not files[2].exists()


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"""
from parity.workers.processes import Processes
from tests.parity.workers import samples
if __name__ == "__main__":
    Processes(1).submit(samples.sleeps, {{"file": {str(file)!r}}}).result()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        until(lambda: file.exists() and bool(file.read_text(encoding="utf-8")))
        worker = psutil.Process(int(file.read_text(encoding="utf-8")))
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_process_keeps_to_the_checkpoint_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.workers.processes._Slot.start", lambda _self: None)
    executor = Processes(2)
    for group in "ABABBC":
        executor.submit(samples.double, {"group": group, "number": 1})
    one, two = executor._slots

    def taken(slot: Any) -> str:
        job = executor.take(slot)
        assert job is not None
        return job.group

    # The longest group first; then one that nobody has; then on with the own; at the end a part of another's.
    assert [taken(one), taken(two), taken(one), taken(one)] == ["B", "A", "B", "B"]
    assert [taken(one), taken(one)] == ["C", "A"]
    executor.shutdown(wait=False)
    assert executor.take(one) is None


def test_what_another_process_cannot_get_is_refused() -> None:
    with Processes(1) as executor:
        with pytest.raises(ValueError, match="is not a function of a module"):
            executor.submit(lambda: 1)
        with pytest.raises(TypeError, match="JSON serializable"):
            executor.submit(samples.double, {"number": object()})
        with pytest.raises(TypeError, match="have names"):
            executor.submit(samples.double, task={"number": 1})
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(samples.double, {"number": 1})


def test_a_task_here_is_done_before_the_next_begins_and_its_state_is_dropped() -> None:
    heard: list[str] = []
    with ThisProcess() as executor:
        executor.watch(heard.append)
        for place, _ in run_tasks(executor, samples.double, [{"number": 0}, {"number": 1}]):
            heard.append(f"result {place}")
        assert list(run_tasks(executor, samples.counts, [{}, {}])) == [(0, 1), (1, 2)]
    assert heard == ["double 0", "result 0", "double 1", "result 1"]
    with ThisProcess() as executor:
        assert executor.submit(samples.counts, {}).result() == 1


def test_where_runs_go_follows_from_the_options() -> None:
    assert isinstance(make_workers(None, None, samples.installation), ThisProcess)
    assert isinstance(make_workers(1, None, samples.installation), ThisProcess)
    assert isinstance(make_workers(2, None, samples.installation), Processes)
    assert [threads_each(8, None), threads_each(8, 3), threads_each(2, 4)] == [8, 2, 1]
    with pytest.raises(ParityError, match="cannot be used together"):
        check_workers(2, "tcp://127.0.0.1:1")


@pytest.mark.parametrize("value", [None, 0.0, 0.1 + 0.2, float("inf"), float("-inf")])
def test_numbers_survive_json(value: float | None) -> None:
    assert number(plain(value)) == value
    assert str(number(plain(float("nan")))) == "nan"
