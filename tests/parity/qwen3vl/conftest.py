"""Shared by the tests that run the port beside the reference: one workbench, one yardstick per case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.qwen3vl.cases import Case, standard_suite
from parity.qwen3vl.engines import PortEngine
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.run import RunResult, run_subject
from parity.qwen3vl.workbench import Workbench
from parity.qwen3vl.yardstick import Yardstick, measure_yardstick

CASES = {case.name: case for case in standard_suite()}


def silent(_what: str) -> None:
    """A progress that says nothing."""


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("cache"))


class Runner:
    """Runs the port through cases of the suite; yardsticks are measured once and kept."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self._ready: dict[str, tuple[Case, Path, CaseInputs, Yardstick]] = {}

    def yardstick(self, name: str) -> tuple[Case, Path, CaseInputs, Yardstick]:
        if name not in self._ready:
            case = CASES[name]
            folder = self.bench.checkpoint(case.checkpoint)
            inputs = self.bench.inputs(case, folder, "float32")
            yardstick = measure_yardstick(inputs, self.bench.reference(folder, "float32"), progress=silent)
            self._ready[name] = (case, folder, inputs, yardstick)
        return self._ready[name]

    def __call__(self, name: str) -> RunResult:
        """The port, as it is at this moment, against the kept yardstick; the port is loaded anew each time."""
        from port import load_model

        case, folder, inputs, yardstick = self.yardstick(name)
        subject = PortEngine(load_model(folder, dtype=torch.float32), chunk=case.chunk)
        return run_subject(inputs, subject, yardstick, progress=silent)


@pytest.fixture(scope="session")
def run_port(bench: Workbench) -> Runner:
    return Runner(bench)


@pytest.fixture
def first_divergence(run_port: Runner) -> Callable[[str], tuple[str, str]]:
    """Runs a case that must diverge; gives the seam and the step where it first does."""

    def run(name: str) -> tuple[str, str]:
        result = run_port(name)
        assert result.judgement.verdict.name == "DIVERGED", result.judgement.reason
        assert result.judgement.first_divergence is not None
        entry = result.findings[result.judgement.first_divergence].entry
        return entry.key.name, entry.step

    return run
