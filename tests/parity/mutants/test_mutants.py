"""Mutants: the registry is complete, planting is undone, and the matrix distinguishes caught and survived mutants."""

from __future__ import annotations

import csv
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import port
import port.cache
import port.config
import port.generation_config
import port.grid
import port.json_fields
import port.layers
import port.model
import port.mrope
import port.picture
import port.pixel_config
import port.pixels
import port.processor
import port.prompt
import port.resize
import port.sampling
import port.tap
import port.template
import port.text
import port.tokenizer
import port.video
import port.vision
import port.weights
from parity.cases.registry import every_case
from parity.cli.commands.mutants import mutants
from parity.core.errors import ParityError
from parity.mutants.attempt import Prepared, prepare, try_mutant
from parity.mutants.base import FLOAT32, Mutant, altered, around, replaced, seam_pattern
from parity.mutants.cases import ALL as MATRIX_CASES
from parity.mutants.cases import DEFAULT
from parity.mutants.matrix import Matrix, MutantResult, fate, smallest_cover
from parity.mutants.mistakes import text, vision
from parity.mutants.not_planted import NOT_PLANTED
from parity.mutants.outcomes import Outcome
from parity.mutants.registry import ALL, chosen
from parity.runs.case_run import Result
from parity.runs.stages.stage import judge_stage
from parity.seams.generation import generation_specs
from parity.seams.model import model_specs
from parity.seams.processor import processor_specs
from parity.seams.spec import SeamSpec
from port.layers import RMSNorm

BY_ID = {mutant.id: mutant for mutant in ALL}
MODULES = (
    port.cache, port.config, port.grid, port.layers, port.model, port.mrope, port.tap, port.text, port.vision,
    port.weights, port.picture, port.pixel_config, port.pixels, port.processor, port.prompt, port.tokenizer, port.video,
    import_module("port.generate"), port.sampling, port.generation_config,
    port.json_fields, port.resize, port.template,
)  # fmt: skip
# Real bugs of real ports, as collected for this project.
KNOWN_BUGS = (
    "batch-size-one-only",
    "beam-repeats-patch-rows",
    "bilinear-instead-of-bicubic",
    "clip-mean-std",
    "cumsum-overflow-long-context",
    "decode-without-rope-delta",
    "deepstack-chunked-prefill-offset0",
    "deepstack-injected-at-vit-indices",
    "deepstack-injection-order-one-layer-late",
    "deepstack-moe-noop-append",
    "deepstack-not-injected",
    "deepstack-offset-not-advanced-per-row",
    "delta-double-subtracts-left-pad",
    "dense-down-proj-transposed",
    "double-resize-factor-28",
    "embed-scatter-hidden-slice-uses-seqlen",
    "feature-order-images-first",
    "head-dim-derived-from-hidden",
    "kv-shift-mrope",
    "merger-gelu-tanh",
    "moe-double-softmax-aux",
    "moe-experts-transposed",
    "moe-router-gate-not-loaded",
    "moe-router-weights-dtype",
    "moe-video-pixels-ignored",
    "mrope-absolute-grid-positions",
    "mrope-delta-padded-length",
    "mrope-grids-lost-after-prefix-cache",
    "mrope-interleaved-on-qwen2",
    "mrope-interval-truncated",
    "mrope-prefix-tail-positions-from-zero",
    "mrope-second-image-from-unexpanded-index",
    "mrope-section-key-missed",
    "mrope-time-interval-scales-start",
    "mrope-trimmed-ids-vs-full-grids",
    "mrope-video-not-split-per-frame",
    "outer-vision-wrapper-dropped",
    "padding-side-right-generation",
    "patch-embed-first-temporal-slice-only",
    "patch-embed-in-float16",
    "patch-order-raster-not-merge-block",
    "pixels-narrowed-by-image-count",
    "pos-embed-align-corners-false",
    "pos-embed-weights-in-bf16",
    "pos-embed-weights-integer-cast",
    "position-ids-stale-on-new-image",
    "prefill-causal-mask-inverted-condition",
    "prefix-cache-ignores-pixels",
    "resize-wh-swapped",
    "rgba-not-converted",
    "rope-freqs-in-bf16",
    "rope-mask-indices-offset",
    "size-edges-ignored",
    "smart-resize-missing-max-factor",
    "surplus-placeholder-misassign",
    "text-mrope-contiguous-sections",
    "text-mrope-last-frequencies-still",
    "text-rope-sequential-1d",
    "tie-embeddings-read-from-text-config",
    "timestamps-lost-frame-indices",
    "timestamps-use-merge-size",
    "toplevel-quant-config-ignored",
    "untied-lm-head-expects-bias",
    "video-patch-double-merge-stride",
    "video-resize-image-budget",
    "video-temporal-pad-count",
    "video-timestamps-missing",
    "video-token-mask-omitted",
    "vision-2d-rope-missing",
    "vision-config-defaults-wrong",
    "vision-gelu-from-float16-table",
    "vision-inv-freq-bf16",
    "vision-mlp-quick-gelu",
    "vision-rope-repeat-instead-of-tile",
    "vit-additive-ones-mask",
    "vit-attn-index-overflow",
    "vit-causal-attention",
    "vit-cross-frame-attention",
    "vit-cu-seqlens-not-accumulated",
    "vit-split-lengths-as-cut-points",
    "vit-window-full-swapped",
)


def test_every_known_bug_is_planted_or_has_a_reason() -> None:
    real = {mutant.id for mutant in ALL if mutant.real}
    assert real | NOT_PLANTED.keys() == set(KNOWN_BUGS)
    assert not real & NOT_PLANTED.keys()
    assert all(reason.strip() for reason in NOT_PLANTED.values())


@pytest.mark.parametrize("spec", [*processor_specs(), *model_specs(), *generation_specs()], ids=lambda spec: spec.name)
def test_every_seam_has_a_mutant(spec: SeamSpec) -> None:
    name = spec.name.format(0)
    planted = [mutant.id for mutant in ALL if _stands_for(mutant, spec, name)]
    assert planted, f"nothing is planted at {spec.name}"


def _stands_for(mutant: Mutant, spec: SeamSpec, name: str) -> bool:
    return any(
        re.sub(r"\.\d+(?=\.|$)", ".{}", part) == spec.name or seam_pattern(part).fullmatch(name)
        for part in mutant.seam.split("|")
    )


def test_the_registry_is_consistent() -> None:
    assert len(BY_ID) == len(ALL) >= 100
    assert sum(mutant.real for mutant in ALL) == len(KNOWN_BUGS) - len(NOT_PLANTED)
    for mutant in ALL:
        assert not (mutant.real and mutant.source == "made up"), mutant.id
        assert bool(mutant.invisible) == (set(mutant.dtypes) != {"float32", "bfloat16"}), mutant.id
        assert mutant.needs or mutant.loads, f"{mutant.id} does not say what exposes it"
    with pytest.raises(ParityError, match="there is no mutant no-such"):
        chosen(["no-such"])


def test_the_cases_of_the_matrix_exist() -> None:
    assert set(DEFAULT) <= set(MATRIX_CASES) <= every_case().keys()


# Planting and taking out


def _everything() -> dict[tuple[str, str], Any]:
    """Every attribute of every module of the port and of their classes."""
    found: dict[tuple[str, str], Any] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            found[module.__name__, name] = value
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found |= {(f"{module.__name__}.{name}", key): inner for key, inner in vars(value).items()}
    return found


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.id)
def test_a_mutant_changes_the_port_and_is_taken_out(mutant: Mutant) -> None:
    before = _everything()
    with suppress(ZeroDivisionError), mutant.plant():
        assert _everything() != before, "nothing was planted"
        raise ZeroDivisionError
    after = _everything()
    assert after.keys() == before.keys()
    assert [key for key, value in after.items() if value is not before[key]] == []


def test_replacing_what_is_only_inherited_is_refused() -> None:
    with pytest.raises(KeyError), replaced(RMSNorm, "eval", None):
        pass


# Catching


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the matrix runs them: tiny tensors gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ready(loader: Any) -> Prepared:
    """A picture, with other requests before it and in between."""
    return prepare(every_case()["other-requests"], loader, dtype="float32")


REPRESENTATIVE = (
    "last-prompt-token-changed",
    "patch-order-raster-not-merge-block",
    "mrope-absolute-grid-positions",
    "decode-without-rope-delta",
    "fourth-decode-step-late",
    "one-patch-wrong",
    "pos-embed-align-corners-false",
    "vision-2d-rope-missing",
    "vit-causal-attention",
    "merger-gelu-tanh",
    "one-feature-wrong",
    "deepstack-one-layer-late",
    "text-mrope-contiguous-sections",
    "prefill-causal-mask-inverted-condition",
    "head-dim-derived-from-hidden",
    "text-second-norm-eps",
    "cache-ring-too-small",
    "prefix-cache-ignores-pixels",
    "rope-delta-kept-on-the-model",
    "segment-boundaries-kept",
    "q-norm-and-k-norm-swapped",
    "vision-config-defaults-wrong",
    "logits-of-last-vocabulary-row",
)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_mistake_is_caught_where_it_was_made(name: str, ready: Prepared) -> None:
    outcome = try_mutant(BY_ID[name], ready)
    assert outcome.expected
    assert outcome.state == "at seam", outcome


@pytest.mark.parametrize("name", ["merger-gelu-tanh", "decode-without-rope-delta"])
def test_stopping_early_finds_the_same_place_as_a_whole_run(name: str, ready: Prepared) -> None:
    with BY_ID[name].plant():
        result = Result.of([judge_stage(ready.stage, ready.subject(False))])
    assert result.judgement.first_divergence is not None
    entry = result.findings[result.judgement.first_divergence].entry
    outcome = try_mutant(BY_ID[name], ready)
    assert (outcome.seam, outcome.step) == (entry.key.name, entry.step)


def _made(plant: Any, *, id: str = "made-for-a-test", seam: str = "logits") -> Mutant:
    return Mutant(id=id, title="", component="test", seam=seam, step="*", plant=plant, needs=frozenset({"forward"}))


@pytest.mark.parametrize(
    "plant",
    [
        nullcontext,
        vision.Block().planted,
        text.Attention().planted,
        text.Layer().planted,
        lambda: altered("logits", lambda logits: logits * 1.0),
    ],
)
def test_a_rewrite_without_a_mistake_survives_bit_for_bit(plant: Any, ready: Prepared) -> None:
    """What the mutants are made of adds nothing of its own, and the matrix can report a survivor."""
    mutant = _made(plant)
    outcome = try_mutant(mutant, ready)
    assert outcome.state == "survived"
    assert outcome.identical
    assert fate(mutant, [outcome], FLOAT32) == "survived"


def test_the_same_sum_in_another_order_survives_below_the_gates(ready: Prepared) -> None:
    mutant = BY_ID["deepstack-injection-order-one-layer-late"]
    outcome = try_mutant(mutant, ready)
    assert outcome.state == "survived"
    assert not outcome.identical
    assert outcome.worst is not None
    assert 0 < outcome.worst <= 1
    assert outcome.floors is not None
    assert outcome.floors <= 1
    assert fate(mutant, [outcome], FLOAT32) == "invisible"


@pytest.mark.parametrize(("floors", "wanted"), [(0.9, "invisible"), (1.1, "survived"), (None, "survived")])
def test_calling_a_mutant_invisible_does_not_make_it_so(floors: float | None, wanted: str) -> None:
    mutant = replace(_made(nullcontext), dtypes=(), invisible="so it is said")
    outcome = Outcome(mutant.id, "a", "survived", expected=False, worst=0.5, floors=floors)
    assert fate(mutant, [outcome], FLOAT32) == wanted


def test_a_mistake_at_another_seam_is_not_called_localised(ready: Prepared) -> None:
    outcome = try_mutant(_made(lambda: altered("text.norm", lambda x: x * 1.01), seam="logits"), ready)
    assert (outcome.state, outcome.seam) == ("elsewhere", "text.norm")


def test_a_mutant_may_break_in_any_way(ready: Prepared) -> None:
    @contextmanager
    def dividing_by_zero() -> Iterator[None]:
        def wrapper(original: Any, *args: Any) -> Any:
            raise ZeroDivisionError("by a test")

        with around(port.vision.VisionModel, "rotary", wrapper):
            yield

    outcome = try_mutant(_made(dividing_by_zero, seam="text.position_ids"), ready)
    assert outcome.caught
    assert outcome.error == "ZeroDivisionError: by a test"


def test_a_port_that_fails_without_a_mutant_is_no_place_to_try_one(loader: Any) -> None:
    with (
        altered("logits", lambda logits: logits * 1.1),
        pytest.raises(ParityError, match="without a mistake does not pass text: first divergence at logits"),
    ):
        prepare(every_case()["text"], loader, dtype="float32")


@pytest.mark.slow
def test_a_trained_stream_hides_what_a_faint_one_shows(loader: Any) -> None:
    """Measured, not declared: eps is nothing beside a loud row, and bfloat16 weights have no more bits to lose."""
    names = ("final-norm-eps", "text-second-norm-eps", "weights-in-bf16", "embedding-in-bf16")
    trained = prepare(every_case()["trained-batch"], loader, dtype="float32")
    assert not {"faint stream", "weights finer than bfloat16"} & trained.traits
    for name in names:
        outcome = try_mutant(BY_ID[name], trained)
        assert (outcome.expected, outcome.caught, outcome.is_noise) == (False, False, True), name
    assert try_mutant(BY_ID["merger-gelu-tanh"], trained).state == "at seam"
    seeded = prepare(every_case()["tied-text-says-no"], loader, dtype="float32")
    assert {"faint stream", "weights finer than bfloat16"} <= seeded.traits
    for name in names:
        assert try_mutant(BY_ID[name], seeded).state == "at seam", name


def test_the_port_is_correct_after_many_mutants(ready: Prepared) -> None:
    for name in REPRESENTATIVE[::4]:
        assert try_mutant(BY_ID[name], ready).caught
    outcome = try_mutant(_made(nullcontext), ready)
    assert outcome.identical


# Adding up


def _outcome(mutant: str, case: str, state: Any, *, expected: bool = True) -> Outcome:
    return Outcome(mutant, case, state, expected=expected)


def test_figures_of_a_matrix() -> None:
    first, second, third = (_made(nullcontext, id=name) for name in ("one", "two", "three"))
    lines = [
        MutantResult(first, "caught", (_outcome("one", "a", "at seam"), _outcome("one", "b", "at seam"))),
        MutantResult(second, "caught", (_outcome("two", "a", "elsewhere"), _outcome("two", "b", "survived"))),
        MutantResult(third, "survived", (_outcome("three", "a", "survived"), _outcome("three", "b", "not applicable"))),
    ]
    matrix = Matrix("float32", {"a": 5, "b": 1}, tuple(lines))
    assert matrix.kill_rate == pytest.approx(2 / 3)
    assert matrix.localisation_rate == 0.5
    assert not matrix.proven
    assert [outcome.case for outcome in lines[1].missed_by] == ["b"]
    assert smallest_cover(matrix) == ["a"]
    assert Matrix("float32", {"a": 5}, tuple(lines[:2])).proven
    assert not Matrix("float32", {}, ()).proven


def test_the_cover_prefers_the_cheaper_of_two_equal_cases() -> None:
    line = MutantResult(
        _made(nullcontext), "caught", (_outcome("m", "dear", "at seam"), _outcome("m", "cheap", "at seam"))
    )
    assert smallest_cover(Matrix("float32", {"dear": 9, "cheap": 2}, (line,))) == ["cheap"]


def test_a_mutant_that_no_case_exposes_is_no_proof() -> None:
    mutant = _made(nullcontext)
    outcome = _outcome(mutant.id, "a", "survived", expected=False)
    assert fate(mutant, [outcome], FLOAT32) == "not exposed"


# The command


def test_the_command_writes_its_files_and_passes(loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3VL_PARITY_CACHE", str(loader.folder))
    ids = ("text-mlp-gelu", "tie-embeddings-read-from-text-config", "rope-freqs-in-bf16")
    code = mutants(cases=("config-traps",), every_case=False, ids=ids, dtype="float32", out=tmp_path, as_json=False)
    assert code == 0
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["totals"]["kill_rate"] == 1.0
    assert [mutant["fate"] for mutant in document["mutants"]] == ["caught", "caught", "invisible"]
    assert document["cover"] == {"cases": ["config-traps"], "forwards": 5}
    with (tmp_path / "mutants.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["config-traps"] for row in rows] == ["at seam", "at seam", "survived"]
    assert (tmp_path / "mutants.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_fails_where_a_mistake_is_not_exposed(
    loader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3VL_PARITY_CACHE", str(loader.folder))
    code = mutants(
        cases=("config-traps",),
        every_case=False,
        ids=("mask-shows-padding",),
        dtype="float32",
        out=tmp_path,
        as_json=True,
    )
    assert code == 1


def test_unknown_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="there is no case 'nowhere'; choose from"):
        mutants(cases=("nowhere",), every_case=False, ids=(), dtype="float32", out=tmp_path, as_json=True)
