"""The generation stage: its yardstick is what transformers' ``generate`` does, and it finds what differs from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.cases.case import TINY, Case, Request
from parity.cases.generation import ABSENT, FIELDS, all_pairs, config, generation_cases, settings_requests
from parity.cases.registry import every_case
from parity.core.errors import ParityError
from parity.core.trace import PADDING, SeamKey
from parity.core.verdict import Verdict
from parity.engines.busy import OtherRequest, OtherRequests
from parity.engines.generation import PortGeneration
from parity.mutants.base import altered, around
from parity.mutants.registry import chosen
from parity.runs.case_run import CaseRun, Result, run_case
from parity.runs.loader import Loader
from parity.runs.stages.generation_stage import GenerationStage
from parity.runs.stages.stage import judge_stage
from parity.seams.generation import generation_specs, row_seed, rows_of
from port import load_model
from port.model import Qwen3VL
from port.tokenizer import Tokenizer
from reference.errors import ReferenceModelError
from reference.generation import sampler

LEFT = "generation-left"


class Runs:
    """Runs generation cases once, and the port again as it is patched at the time."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._runs: dict[str, CaseRun] = {}

    def run(self, name: str) -> CaseRun:
        if name not in self._runs:
            self._runs[name] = run_case(every_case()[name], self.loader, dtype="float32")
        return self._runs[name]

    def stage(self, name: str) -> GenerationStage:
        stage = self.run(name).generation
        assert stage is not None
        return stage

    def again(self, name: str) -> Result:
        case, stage = every_case()[name], self.stage(name)
        folder = self.loader.checkpoint(case.checkpoint)
        others = self.loader.other_requests(case, folder)
        processor = self.loader.port_processor(folder).processor
        subject = PortGeneration(load_model(folder), processor, others, chunk=case.chunk)
        return Result.of([judge_stage(stage, subject)])


@pytest.fixture(scope="module")
def runs(loader: Loader) -> Iterator[Runs]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ready = Runs(loader)
    for case in generation_cases():  # before anything is planted
        ready.run(case.name)
    yield ready
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [case.name for case in generation_cases()])
def test_the_port_generates_as_the_reference_and_every_row_is_decided(runs: Runs, name: str) -> None:
    run, stage = runs.run(name), runs.stage(name)
    assert run.result.judgement.verdict is Verdict.PARITY, run.result.judgement.reason
    undecided = [
        seam for each in stage.planned for token in each.tokens for seam, rows in token.decided.undecided.items()
        if bool(rows.any())
    ]  # fmt: skip
    assert not undecided


def _transformers(runs: Runs, name: str, number: int, row: int | None) -> list[list[int]]:
    """What ``generate`` gives for a request, of all rows or of one row alone."""
    case, stage = every_case()[name], runs.stage(name)
    each, folder = stage.planned[number], runs.loader.checkpoint(case.checkpoint)
    processor, model = runs.loader.processor(folder), runs.loader.reference(folder, "float32")
    rows = runs.run(name).inputs
    assert rows is not None
    batch = rows.processed.batch
    chosen_rows = batch.rows if row is None else [batch.rows[row]]
    inputs = processor.prepare(chosen_rows, padding_side="left")
    used = {name: value for name, value in each.sampler.settings.items() if name in each.sampler.processors}
    if "top_k" in used:
        used["top_k"] = int(used["top_k"])
    torch.manual_seed(row_seed(each.request.seed, row or 0))
    return model.generate(
        inputs,
        max_new_tokens=each.sampler.max_new_tokens,
        eos_token_ids=each.sampler.eos_token_ids,
        do_sample=each.sampler.do_sample,
        **used,
    )


def test_its_greedy_rows_are_those_of_generate(runs: Runs) -> None:
    planned = runs.stage(LEFT).planned
    assert [len(row) for row in planned[0].rows] == [4, 2, 7, 6]  # the rows end at different times
    assert _transformers(runs, LEFT, 0, None) == [list(row) for row in planned[0].rows]


@pytest.mark.parametrize("number", [1, 3])
def test_its_drawn_rows_are_those_of_generate_with_the_seed_of_the_row(runs: Runs, number: int) -> None:
    for row, ids in enumerate(runs.stage(LEFT).planned[number].rows):
        assert _transformers(runs, LEFT, number, row) == [list(ids)]


def test_rows_that_have_ended_are_not_compared(runs: Runs) -> None:
    trace = runs.stage(LEFT).yardstick.trace
    assert (trace.labels(rows_of(SeamKey("generation.tokens", 2))) == PADDING).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "mutant",
    ["penalty-counts-padding", "top-p-crossing-dropped", "draw-one-generator", "end-stops-all-rows", "streams-shared"],
)
def test_a_mistake_is_found_at_its_seam(runs: Runs, mutant: str) -> None:
    (planted,) = chosen([mutant])
    with planted.plant():
        result = runs.again(LEFT)
    first = result.judgement.first_divergence
    assert result.judgement.verdict is Verdict.DIVERGED
    assert first is not None
    entry = result.findings[first].entry
    assert planted.is_at(entry.key.name, entry.step)


def test_a_mistake_that_needs_padding_on_the_right_is_found(runs: Runs) -> None:
    (planted,) = chosen(["last-column-of-padded-rows"])
    with planted.plant():
        assert runs.again("generation-right").judgement.verdict is Verdict.DIVERGED


def test_state_that_one_request_leaves_to_another_is_found(runs: Runs) -> None:
    """The port keeps the tokens that it has seen on the model, so requests that are generated in turn mix them."""
    kept: dict[int, Any] = {}

    def shared(original: Any, seen: Any, tokens: Any, mask: Any = None) -> Any:
        found = original(seen, tokens, mask)
        before = kept.get(found.shape[1])
        kept[found.shape[1]] = found if before is None or before.shape != found.shape else found | before
        return kept[found.shape[1]]

    with around(import_module("port.generate"), "mark_seen", shared):
        assert runs.again("generation-odd").judgement.verdict is Verdict.DIVERGED


def test_an_error_in_the_middle_is_the_ports_failure(runs: Runs) -> None:
    calls = []

    def fails(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise TypeError("planted")
        return original(*args, **kwargs)

    with around(Qwen3VL, "decode", fails):
        result = runs.again("generation-right")
    assert result.judgement.verdict is Verdict.DIVERGED
    assert "TypeError: planted" in result.judgement.reason


def test_text_that_differs_in_one_character_is_found(runs: Runs) -> None:
    with around(Tokenizer, "decode", lambda original, *args, **kwargs: original(*args, **kwargs) + "."):
        result = runs.again("generation-right")
    failed = {finding.entry.key.name for finding in result.findings if not finding.passed}
    assert "generation.text.0" in failed
    assert "generation.logits" not in failed


def test_every_mistake_that_changes_the_first_token_leaves_the_later_ones_comparable(runs: Runs) -> None:
    """Both sides go on with the yardstick's tokens, so one wrong token is one finding."""
    with altered("generation.tokens", lambda value: value + (torch.arange(len(value)) == 0)):
        result = runs.again("generation-right")
    failed = {finding.entry.key.name for finding in result.findings if not finding.passed}
    assert failed == {"generation.tokens"}


def test_every_pair_of_settings_is_in_a_request() -> None:
    choices = all_pairs(FIELDS)
    for left, right in combinations(FIELDS, 2):
        found = {(repr(choice[left]), repr(choice[right])) for choice in choices}
        assert len(found) == len(FIELDS[left]) * len(FIELDS[right])
    assert len(choices) < 60
    for request in settings_requests():
        assert request.config is not None
        assert request.max_new_tokens is not None or "max_new_tokens" in dict(request.config)


def test_a_field_that_is_absent_is_left_out() -> None:
    assert config(top_k=ABSENT, min_p=None) == (("min_p", None),)


def _folder(tmp_path: Path, **fields: Any) -> Path:
    (tmp_path / "generation_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return tmp_path


def test_a_sampler_is_what_generate_prepares(loader: Loader, tmp_path: Path) -> None:
    model = loader.reference(loader.checkpoint(TINY), "float32")
    before = model.model.generation_config
    own = sampler(model, _folder(tmp_path, do_sample=True, top_p=0.5, eos_token_id=[4, 2, 4]), max_new_tokens=3)
    assert (own.do_sample, own.eos_token_ids, own.max_new_tokens) == (True, (2, 4), 3)
    assert list(own.processors) == ["top_k", "top_p"]  # top_k is 50 by default
    assert own.settings == {"repetition_penalty": 1, "temperature": 1, "top_k": 50, "top_p": 0.5, "min_p": 0}
    assert model.model.generation_config is before


def test_a_setting_that_cannot_be_compared_is_refused(loader: Loader, tmp_path: Path) -> None:
    model = loader.reference(loader.checkpoint(TINY), "float32")
    with pytest.raises(ReferenceModelError, match="NoRepeatNGram"):
        sampler(model, _folder(tmp_path, no_repeat_ngram_size=2, eos_token_id=3), max_new_tokens=3)


def test_a_case_without_requests_is_refused(loader: Loader) -> None:
    case = Case("empty", "", 1, TINY, (("Hi.",),), stages=("processor", "generation"))
    with pytest.raises(ParityError, match="no requests; add some"):
        run_case(case, loader, dtype="float32")


def test_every_kind_of_seam_is_there(runs: Runs) -> None:
    names = {entry.key.name.rstrip("0123456789") for entry in runs.stage("generation-settings").yardstick.trace}
    assert names == {spec.name.replace("{}", "") for spec in generation_specs()}


def test_in_bfloat16_rows_that_rounding_decides_are_left_out(loader: Loader) -> None:
    case = replace(every_case()[LEFT], requests=(Request(config(do_sample=True, top_k=40, eos_token_id=3), 4, seed=3),))
    run = run_case(case, loader, dtype="bfloat16")
    assert run.result.judgement.verdict is Verdict.PARITY, run.result.judgement.reason
    assert run.generation is not None
    labels = [
        run.generation.yardstick.trace.labels(rows_of(SeamKey("generation.top_k", call)))
        for call in range(len(run.generation.planned[0].tokens))
    ]
    assert (np.stack(labels) == PADDING).any()  # bfloat16 logits are often equal at the limit


def test_other_requests_do_not_reach_the_sink(runs: Runs, loader: Loader) -> None:
    seen: list[str] = []
    folder = loader.checkpoint(TINY)
    stage = runs.stage("generation-right")
    inputs = runs.run("generation-right").inputs
    assert inputs is not None
    other = OtherRequest(inputs.processed.batch, inputs.tensors)
    subject = PortGeneration(
        load_model(folder),
        loader.port_processor(folder).processor,
        OtherRequests([other], [other, other]),
    )
    subject.generate(inputs.tensors, stage.planned[2].request, lambda name, _tensor: seen.append(name))
    assert seen.count("generation.logits") == 5
