"""Tasks on the workers of a Dask scheduler, here in threads of this process. ``nox -s cluster`` runs real ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from parity.core.errors import ParityError
from parity.workers.base import run_tasks
from parity.workers.choose import make_workers
from parity.workers.cluster import Cluster
from parity.workers.messages import TaskFailed, WorkerLost
from tests.parity.workers import samples

NOBODY = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module")
def scheduler() -> Iterator[Any]:
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=50) as cluster:
        yield cluster


def test_a_cluster_gives_what_this_process_gives(scheduler: Any) -> None:
    heard: list[str] = []
    tasks = [{"number": number, "label": f"task {number}", "steps": 2} for number in range(12)]
    with make_workers(None, scheduler.scheduler_address, samples.installation) as executor:
        assert isinstance(executor, Cluster)
        executor.watch(heard.append)
        assert dict(run_tasks(executor, samples.double, tasks)) == {n: {"double": 2 * n} for n in range(12)}
        assert sorted(heard) == sorted([f"task {number}" for number in range(12)] * 2)
        for error, kind in (("user", ParityError), ("disk", OSError), ("memory", MemoryError), ("other", TaskFailed)):
            with pytest.raises(kind):
                executor.submit(samples.fails, {"error": error}).result()
        executor.check()


def test_a_worker_with_another_installation_is_refused(scheduler: Any) -> None:
    with Cluster(scheduler.scheduler_address, samples.other_installation) as executor:
        future = executor.submit(samples.double, {"number": 1})
        with pytest.raises(ParityError, match="has another installation"):
            future.result()


def test_a_task_whose_worker_was_killed_each_time_is_lost(scheduler: Any) -> None:
    killed = type("KilledWorker", (Exception,), {})("task-1")
    with Cluster(scheduler.scheduler_address, samples.installation) as executor:
        assert isinstance(executor._translated(killed), WorkerLost)
        assert isinstance(executor._translated(ImportError("no parity there")), ParityError)


@pytest.mark.slow
def test_a_worker_process_that_is_killed_costs_its_task_another_try_and_nothing_else(tmp_path: Path) -> None:
    tasks = [{"number": number, "folder": str(tmp_path), "times": int(number == 2)} for number in range(6)]
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(**options, silence_logs=50))
        executor = stack.enter_context(Cluster(cluster.scheduler_address, samples.installation))
        found = dict(run_tasks(executor, samples.dies, tasks))
        assert found == {number: {"double": 2 * number} for number in range(6)}
        assert len(list(tmp_path.glob("death-*"))) == 1
        lost = {"number": 9, "folder": str(tmp_path), "times": 1000}
        answers = run_tasks(executor, samples.dies, [lost], lost=lambda _task, error: str(error))
        assert "ended each time it was tried" in dict(answers)[0]


@pytest.mark.parametrize("address", [NOBODY, "nonsense", "tcp://no host:1", "ftp://127.0.0.1:1"])
def test_an_address_that_does_not_answer_is_refused_in_time(address: str) -> None:
    with pytest.raises(ParityError, match="no Dask scheduler answers at"):
        Cluster(address, samples.installation, seconds=1)


def test_a_scheduler_without_workers_is_refused_in_time_and_so_is_one_that_loses_all() -> None:
    options = {"n_workers": 0, "processes": False, "dashboard_address": None, "silence_logs": 50}
    with LocalCluster(**options) as cluster:
        with pytest.raises(ParityError, match=r"has had no worker for 0\.2 s"):
            Cluster(cluster.scheduler_address, samples.installation, seconds=0.2)
        cluster.scale(1)
        with Cluster(cluster.scheduler_address, samples.installation, seconds=5, without=0.0) as executor:
            executor.check()
            cluster.scale(0)
            while executor._workers():
                time.sleep(0.01)
            with pytest.raises(ParityError, match="has had no worker"):
                executor.check()


def test_without_dask_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParityError, match=r"pip install 'qwen3vl-parity\[cluster\]'"):
        Cluster(NOBODY, samples.installation)
