"""The port generates the same tokens as transformers' own ``generate`` on cases of the standard suite.

Four cases run by default. ``GENERATION_CASES=all`` (``nox -s generation``) runs all of them and times both sides.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import port.model
from parity.answers.generation import Agreement, compare_generation
from parity.cases.case import SeededCheckpoint
from parity.cases.standard import standard_suite
from parity.runs.inputs import CaseInputs
from parity.runs.loader import Loader
from port import GenerationConfig, Inputs, Qwen3VL, generate_all
from port.cache import KVCache
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.version import transformers_major

CASES = {case.name: case for case in standard_suite()}
TOKENS = 64
FEW = ("video-before-picture", "odd-shape", "batch-8", "batch-8-right")
ALL = tuple(name for name, case in CASES.items() if "model" in case.stages)
EVERYTHING = os.environ.get("GENERATION_CASES") == "all"
NAMES = ALL if EVERYTHING else FEW


class Sides:
    """Both sides of one case, loaded."""

    def __init__(self, loader: Loader, name: str) -> None:
        case = CASES[name]
        self.folder: Path = loader.checkpoint(case.checkpoint)
        self.processor: ReferenceProcessor = loader.processor(self.folder)
        self.inputs: CaseInputs = loader.inputs(case, self.folder)
        self.port: Qwen3VL = loader.port(self.folder, "float32")
        self.reference: ReferenceModel = loader.reference(self.folder, "float32")
        self.reference.use_attention("sdpa")

    def compare(self, **options: Any) -> list[Agreement]:
        return compare_generation(self.inputs, self.port, self.reference, self.processor, **options)

    def by_port(self, config: GenerationConfig, *, tokens: int = TOKENS, seed: int = 0) -> list[list[int]]:
        inputs = Inputs(**self.inputs.tensors)
        return generate_all(self.port, inputs, config, max_new_tokens=tokens, chunk=self.inputs.chunk, seed=seed)

    def by_reference(self, *, tokens: int = TOKENS, **choice: Any) -> list[list[int]]:
        return self.reference.generate(self.inputs.tensors, max_new_tokens=tokens, **choice)


@pytest.fixture
def sides(loader: Loader) -> Callable[[str], Sides]:
    return lambda name: Sides(loader, name)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_that_of_transformers(sides: Callable[[str], Sides], name: str) -> None:
    case = sides(name)
    rows = case.compare(tokens=TOKENS)
    assert [len(row.reference) for row in rows] == [TOKENS] * len(CASES[name].rows), "no end, so all the tokens"
    parted = [(row.row, row.first, row.margin) for row in rows if row.first is not None]
    assert not parted, f"(row, place, margin of the reference's first choice): {parted}"
    # And with ends: the checkpoint's own, and a token that some row gives early and another late or never.
    ends = (rows[0].port[5], rows[-1].port[20], *GenerationConfig.from_folder(case.folder).eos_token_ids)
    ended = case.compare(tokens=TOKENS, eos_token_ids=ends)
    assert [row.first for row in ended] == [None] * len(rows)
    assert len(ended[0].port) <= 6
    assert all(row.port[-1] in ends or len(row.port) == TOKENS for row in ended)


def test_the_few_cases_cover_what_generation_depends_on() -> None:
    cases = [CASES[name] for name in FEW]
    assert {case.padding_side for case in cases} == {"left", "right"}
    assert {len(case.rows) for case in cases} >= {1, 8}
    shapes = {case.checkpoint.shape for case in cases if isinstance(case.checkpoint, SeededCheckpoint)}
    assert shapes == {"tiny", "tiny-odd", "tiny-tied"}


@pytest.mark.parametrize(
    "choice",
    [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 1.3, "top_p": 0.95, "min_p": 0.02},
        {"repetition_penalty": 1.3},
    ],
    ids=["as released", "warm", "penalty"],
)
@pytest.mark.parametrize("name", ["photo", "video"])
def test_samples_are_those_of_transformers_for_the_same_seed(
    sides: Callable[[str], Sides], name: str, choice: dict[str, Any]
) -> None:
    """One row: transformers draws all rows from one generator, the port each from its own."""
    case = sides(name)
    seen = []
    for seed in (0, 5):
        found = case.by_port(GenerationConfig(do_sample=True, **choice), seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            assert found == case.by_reference(do_sample=True, **choice)
        seen.append(found)
    assert seen[0] != seen[1] != case.by_port(GenerationConfig())


def test_a_repetition_penalty_leaves_padding_out(sides: Callable[[str], Sides]) -> None:
    case = sides("batch-8")
    assert not bool(case.inputs.tensors["attention_mask"].all())
    found = case.by_port(GenerationConfig(repetition_penalty=1.4))
    alone = [case.processor.prepare([row], padding_side="left") for row in case.inputs.processed.batch.rows]
    one = [case.reference.generate(row, max_new_tokens=TOKENS, repetition_penalty=1.4)[0] for row in alone]
    assert found == one
    assert found != case.by_port(GenerationConfig())
    if transformers_major() >= 5:  # 4 penalises padding as if it were part of the prompt
        assert found == case.by_reference(repetition_penalty=1.4)


# The comparison can fail


def _stale_delta(cache: KVCache, tokens: int) -> Tensor:
    start = cache.visible.sum(dim=1, keepdim=True)
    return (start + torch.arange(tokens)).expand(3, -1, -1)


def _padding_counts(cache: KVCache, tokens: int) -> Tensor:
    return (cache.length + cache.rope_delta + torch.arange(tokens)).expand(3, -1, -1)


@pytest.mark.parametrize(
    ("name", "next_positions"), [("video-before-picture", _stale_delta), ("batch-8", _padding_counts)]
)
def test_wrong_positions_from_the_second_token_on_are_seen(
    sides: Callable[[str], Sides],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    next_positions: Callable[[KVCache, int], Tensor],
) -> None:
    case = sides(name)
    monkeypatch.setattr(KVCache, "next_positions", next_positions)
    parted = [row for row in case.compare(tokens=TOKENS) if row.first is not None]
    assert parted
    assert all((row.first or 0) >= 1 for row in parted), "the first token is the prefill's"
    assert all(row.margin is not None and row.margin > 0 for row in parted)


def test_logits_of_padding_are_seen(sides: Callable[[str], Sides], monkeypatch: pytest.MonkeyPatch) -> None:
    case = sides("batch-8-right")
    monkeypatch.setattr(port.model, "last_real", lambda mask: torch.full((len(mask),), mask.shape[1] - 1))
    assert [row.first for row in case.compare(tokens=2)].count(0) >= 5


def test_an_end_that_one_side_alone_heeds_is_seen(
    sides: Callable[[str], Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = sides("photo")
    end = case.by_port(GenerationConfig(), tokens=4)[0][2]
    own = case.reference.generate
    monkeypatch.setattr(
        case.reference, "generate", lambda inputs, **options: own(inputs, **{**options, "eos_token_ids": ()})
    )
    (row,) = case.compare(tokens=8, eos_token_ids=[end])
    assert (len(row.port), len(row.reference)) == (row.first, 8)
    assert row.margin is not None


def test_the_references_generate_heeds_no_end_but_ours(sides: Callable[[str], Sides]) -> None:
    """transformers 5 fills what is None from the checkpoint's own generation_config.json."""
    case = sides("photo")
    own = case.reference.model.generation_config
    before = own.eos_token_id
    (tokens,) = case.by_reference(tokens=8)
    own.eos_token_id = tokens[2]
    try:
        assert case.by_reference(tokens=8) == [tokens]
        assert case.reference.model.generation_config is own
    finally:
        own.eos_token_id = before


@pytest.mark.skipif(not EVERYTHING, reason="timings, in nox -s generation")
@pytest.mark.parametrize("name", ["photo", "batch-8"])
def test_the_port_is_not_slower(sides: Callable[[str], Sides], name: str) -> None:
    """The whole of 65 tokens less the first, in turn, so that a machine that slows down slows both."""
    case = sides(name)
    config = GenerationConfig()
    runs: dict[str, Callable[[int], object]] = {
        "port": lambda tokens: case.by_port(config, tokens=tokens),
        "reference": lambda tokens: case.by_reference(tokens=tokens),
    }
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for _ in range(7):
        for side, run in runs.items():
            seconds[side].append(_seconds(run, TOKENS + 1) - _seconds(run, 1))
    ours, theirs = (statistics.median(seconds[side]) for side in runs)
    print(f"{name}: {TOKENS / ours:.0f} decode steps/s, transformers {TOKENS / theirs:.0f}")
    assert ours < 1.1 * theirs


def _seconds(run: Callable[[int], object], tokens: int) -> float:
    start = time.perf_counter()
    run(tokens)
    return time.perf_counter() - start
