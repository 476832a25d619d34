"""The suite loads each checkpoint once, keeps no model of an earlier one, and carries nothing from case to case."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import port
from parity.cases.case import TIED, TINY, Case, SeededCheckpoint
from parity.cases.registry import every_case
from parity.cases.standard import SMALL
from parity.core.verdict import Verdict
from parity.documents.base import finding_sections
from parity.milestones.suite import CaseSummary, by_checkpoint, run_one
from parity.runs.loader import Loader
from port import Qwen3VL, load_model
from reference.model import ReferenceModel

BFLOAT16 = SeededCheckpoint("tiny-tied", dtype="bfloat16")
# Checkpoints take turns, so that every case in this order would load anew.
CASES = [
    Case("short", "text", 1, TINY, (("Hi.",),), decode_steps=1),
    Case("tied", "text, tied", 3, TIED, (("Tied?",),), decode_steps=1),
    Case("weights", "every tensor", 2, TINY, stages=("weights",)),
    Case("tied-weights", "every tensor, tied", 2, TIED, stages=("weights",)),
    Case("picture", "a picture", 1, TINY, (("See ", SMALL, " there"),), decode_steps=1),
    Case("half", "every tensor in bfloat16", 2, BFLOAT16, stages=("weights",)),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Loads:
    """Counts the models that are loaded by side, folder and dtype. Notes how many checkpoints are in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.most = 0
        self._alive: list[tuple[str, weakref.ref[Any]]] = []
        monkeypatch.setattr(port, "load_model", self._counted("port", load_model))
        monkeypatch.setattr(ReferenceModel, "load", self._counted("reference", ReferenceModel.load))

    def _counted(self, side: str, load: Callable[..., Any]) -> Callable[..., Any]:
        def counted(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
            model = load(folder, dtype=dtype, device=device)
            self.counts[side, str(folder), str(dtype)] += 1
            self._alive.append((str(folder), weakref.ref(model)))
            gc.collect()
            self.most = max(self.most, len({name for name, kept in self._alive if kept() is not None}))
            return model

        return counted


def _suite(cases: Sequence[Case], loader: Loader, *, dtype: str = "float32") -> list[CaseSummary]:
    found = {case.name: run_one(case, loader, dtype=dtype, finished=lambda _run: None) for case in by_checkpoint(cases)}
    return [found[case.name] for case in cases]


Ran = tuple[list[CaseSummary], Loads]


@pytest.fixture(scope="module")
def ran(cache: Path) -> Callable[[str], Ran]:
    """The cases run together in a dtype, and what was loaded for them."""

    @lru_cache
    def run(dtype: str) -> Ran:
        with pytest.MonkeyPatch.context() as patch:
            loads = Loads(patch)
            return _suite(CASES, Loader(cache), dtype=dtype), loads

    return run


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_each_checkpoint_is_loaded_once_for_each_dtype(ran: Callable[[str], Ran], dtype: str) -> None:
    summaries, loads = ran(dtype)
    assert [summary.case for summary in summaries] == CASES
    assert {summary.judgement.verdict for summary in summaries} == {Verdict.PARITY}
    assert set(loads.counts.values()) == {1}
    # In bfloat16, the weights of float32 checkpoints are still judged in float32.
    assert len(loads.counts) == (6 if dtype == "float32" else 10)
    assert loads.most == 1, "the models of a checkpoint are dropped when its cases are done"


def test_a_case_gives_the_same_findings_as_alone(cache: Path, ran: Callable[[str], Ran]) -> None:
    for summary in ran("float32")[0]:
        (alone,) = _suite([summary.case], Loader(cache))
        assert finding_sections(summary.findings) == finding_sections(alone.findings), summary.case.name


def test_a_case_that_cannot_run_does_not_stop_the_others(cache: Path) -> None:
    bad = replace(CASES[0], name="bad", rows=(("<|image_pad|>",),))
    summaries = _suite([CASES[0], bad, CASES[4]], Loader(cache))
    assert [summary.judgement.verdict.name for summary in summaries] == ["PARITY", "INVALID", "PARITY"]
    assert "did not run" in summaries[1].judgement.reason


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a mistake: a model keeps the position ids of its first prompt, and uses them for later prompts."""
    embed = port.Qwen3VL.embed
    kept: weakref.WeakKeyDictionary[Qwen3VL, torch.Tensor] = weakref.WeakKeyDictionary()

    def leaking(self: Qwen3VL, inputs: port.Inputs) -> Any:
        embedded = embed(self, inputs)
        positions = embedded.position_ids.clone()
        first = kept.setdefault(self, positions)
        tokens = min(first.shape[-1], positions.shape[-1])
        positions[:, :, :tokens] = first[:, :1, :tokens]
        return replace(embedded, position_ids=positions)

    monkeypatch.setattr(port.Qwen3VL, "embed", leaking)


@pytest.mark.usefixtures("leak")
def test_state_that_one_case_leaves_to_another_is_caught(cache: Path) -> None:
    cases = [CASES[4], CASES[1], replace(CASES[4], name="other", rows=(("Look at what this shows: ", SMALL),))]
    for case in cases:
        assert _suite([case], Loader(cache))[0].judgement.verdict is Verdict.PARITY, "a new model does not show it"
    verdicts = [summary.judgement.verdict for summary in _suite(cases, Loader(cache))]
    assert verdicts == [Verdict.PARITY, Verdict.PARITY, Verdict.DIVERGED]


@pytest.mark.usefixtures("leak")
def test_state_that_another_request_leaves_to_a_case_is_caught(cache: Path) -> None:
    (summary,) = _suite([every_case()["other-requests"]], Loader(cache))
    assert summary.judgement.verdict is Verdict.DIVERGED
