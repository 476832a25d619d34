"""Fixtures for the tests that compare the port with the reference: one loader, one yardstick per case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.cases.registry import every_case
from parity.engines.port import PortEngine
from parity.runs.case_run import Result
from parity.runs.inputs import CaseInputs
from parity.runs.loader import Loader
from parity.runs.stages.model_stage import ModelStage, model_stage
from parity.runs.stages.stage import judge_stage
from port import load_model


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(tmp_path_factory.mktemp("cache"))


class Runner:
    """Runs the port's model on cases. Each yardstick is only measured once."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._ready: dict[str, tuple[Path, CaseInputs, ModelStage]] = {}

    def prepared(self, name: str) -> tuple[Path, CaseInputs, ModelStage]:
        if name not in self._ready:
            case = every_case()[name]
            folder = self.loader.checkpoint(case.checkpoint)
            inputs = self.loader.inputs(case, folder)
            self._ready[name] = folder, inputs, model_stage(inputs, self.loader.reference(folder, "float32"))
        return self._ready[name]

    def __call__(self, name: str) -> Result:
        """Load the port, as it is patched now, and compare it with the stored yardstick."""
        folder, inputs, stage = self.prepared(name)
        subject = PortEngine(load_model(folder, dtype=torch.float32), chunk=inputs.chunk)
        return Result.of([judge_stage(stage, subject)])


@pytest.fixture(scope="session")
def run_port(loader: Loader) -> Runner:
    return Runner(loader)


@pytest.fixture
def first_divergence(run_port: Runner) -> Callable[[str], tuple[str, str]]:
    """Run a case that must diverge. Returns the seam and step of the first divergence."""

    def run(name: str) -> tuple[str, str]:
        result = run_port(name)
        assert result.judgement.verdict.name == "DIVERGED", result.judgement.reason
        assert result.judgement.first_divergence is not None
        entry = result.findings[result.judgement.first_divergence].entry
        return entry.key.name, entry.step

    return run
