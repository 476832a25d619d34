"""``parity diagnose``: known mistakes are named, alone and in pairs; what no known mistake explains is not named."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from parity.bundles.bundle import Bundle
from parity.bundles.tokens.blackbox import judge_tokens, log_softmax, read_steps
from parity.diagnosis.diagnose import diagnose_tokens, headline
from parity.diagnosis.planted import PlantedRuns
from parity.documents.diagnosis import bug_report
from parity.kernels.plain import PlainKernels
from parity.mutants.base import Mutant, altered
from parity.mutants.registry import chosen
from tests.parity.bundles.samples import PICTURE, TEXT, Golden
from tests.parity.cli.samples import Answer, call

Plant = Callable[[], AbstractContextManager[None]]
Subject = Callable[..., Path]


@pytest.fixture
def subject(golden: Golden, tmp_path: Path) -> Subject:
    """The trace of a foreign engine: the port with mistakes, and with its sums in plain order."""

    def make(mistakes: Sequence[Mutant], case: str = PICTURE, keep: Callable[[str], bool] = lambda _: True) -> Path:
        found = _values(golden, mistakes, case)
        path = tmp_path / f"{case}.safetensors"
        kept = {f"{key.name}#{key.call}": np.ascontiguousarray(a) for key, a in found.items() if keep(key.name)}
        save_file(kept, path, metadata={"case": case, "producer": "my engine"})
        return path

    return make


def _values(golden: Golden, mistakes: Sequence[Mutant], case: str) -> Any:
    opened = Bundle(golden.bundle).cases[case]
    folder = opened.folder / opened.record["checkpoint"]["folder"]
    return PlantedRuns(opened, folder, dtype="float32").values(mistakes, "model", kernels=PlainKernels())


def _mistake(plant: Plant) -> Mutant:
    """A mistake that is not in the library."""
    return Mutant(id="unseen", title="unseen", component="?", seam="?", step="*", plant=plant)


def _diagnose(golden: Golden, path: Path, *options: object) -> tuple[Answer, dict[str, Any]]:
    answer = call("diagnose", golden.bundle, path, "--json", *options)
    return answer, json.loads(answer.stdout)


def _causes(document: dict[str, Any]) -> list[list[str]]:
    return [[mistake["id"] for mistake in one["mistakes"]] for one in document["traces"][0]["explanations"]]


@pytest.mark.parametrize(
    ("names", "case"),
    [
        (("merger-gelu-tanh",), PICTURE),
        (("decode-without-rope-delta",), PICTURE),
        (("text-v-turned",), TEXT),
        (("merger-gelu-tanh", "decode-without-rope-delta"), PICTURE),
    ],
)
def test_known_mistakes_are_named(names: tuple[str, ...], case: str, golden: Golden, subject: Subject) -> None:
    answer, document = _diagnose(golden, subject(chosen(names), case))
    assert answer.code == 1
    assert document["conclusion"]["status"] == "explained"
    assert _causes(document) == [list(names)]
    (cause,) = document["traces"][0]["explanations"]
    assert cause["share"] == 1
    assert cause["worst_after"] < 0.5
    assert all(name in document["bug_report"] for name in names)


def test_a_single_mistake_costs_less_than_three_runs(golden: Golden, subject: Subject) -> None:
    _, document = _diagnose(golden, subject(chosen(["merger-gelu-tanh"])))
    assert document["totals"]["runs"] < 3


def test_the_command_of_a_bug_report_asks_for_the_same(golden: Golden, subject: Subject, tmp_path: Path) -> None:
    layout = tmp_path / "my layout.json"
    layout.write_text('{"rules": []}', encoding="utf-8")
    path = subject(chosen(["merger-gelu-tanh"]))
    options = ("--case", PICTURE, "--stage", "model", "--dtype", "float32", "--expect", "coarse", "--layout", layout,
               "--checkpoint", tmp_path)  # fmt: skip
    _, document = _diagnose(golden, path, *options)
    words = shlex.split(document["bug_report"].partition("To see it again: ")[2].partition(" (bundle sha256")[0])
    assert words == ["parity", "diagnose", str(golden.bundle), str(path), *map(str, options)]


def test_the_terminal_shows_the_mistake_and_a_bug_report(golden: Golden, subject: Subject, tmp_path: Path) -> None:
    path = subject(chosen(["merger-gelu-tanh"]))
    answer = call("diagnose", golden.bundle, path, "--out", tmp_path / "report")
    answer.succeeds(code=1)
    assert "explained by merger-gelu-tanh" in answer.stdout
    assert "For a bug report" in answer.stdout
    assert "mistral.rs" in answer.stdout  # who made it before
    assert (tmp_path / "report" / "diagnosis.csv").is_file()


@pytest.mark.slow
def test_a_mistake_is_named_from_a_coarse_trace(golden: Golden, subject: Subject) -> None:
    bound = ("input_ids", "attention_mask", "image_grid_thw", "text.embed_tokens")
    kept = (*bound, "vision.blocks.1.out", "vision.merger", "vision.deepstack.0", "text.norm", "logits")
    _, document = _diagnose(golden, subject(chosen(["merger-gelu-tanh"]), keep=lambda name: name in kept))
    assert ["merger-gelu-tanh"] in _causes(document)


def test_a_sound_subject_has_no_mistake(golden: Golden, subject: Subject) -> None:
    answer, document = _diagnose(golden, subject([]))
    assert answer.code == 0
    assert document["conclusion"]["status"] == "nothing"


def _scaled(seam: str, factor: float) -> Plant:
    return lambda: altered(seam, lambda value, *_: value * factor)


@contextmanager
def _rolled() -> Iterator[None]:
    def change(value: Tensor, layer: int) -> Tensor:
        return torch.roll(value, 1, dims=-1) if layer == 1 else value

    with altered("text.layers.{}.post_attention_norm", change):
        yield


UNSEEN: dict[str, tuple[Plant, str]] = {
    "a merger that is a little too large": (_scaled("vision.merger", 1.003), "merger"),
    "one layer's MLP is scaled": (_scaled("text.layers.1.mlp.out", 0.98), "text-mlp"),
    "channels rolled after a norm": (_rolled, "text-attn"),
    "patches that are a little too large": (_scaled("vision.patch_embed", 1.01), "patch-embed"),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_an_unseen_mistake_gets_its_component_and_no_name(name: str, golden: Golden, subject: Subject) -> None:
    plant, component = UNSEEN[name]
    answer, document = _diagnose(golden, subject([_mistake(plant)]))
    assert answer.code == 1
    assert document["conclusion"]["status"] == "unexplained"
    assert _causes(document) == []
    found = document["traces"][0]["symptoms"]["components"]
    assert found[0] == component or component in found[:2], found


def _tokens(golden: Golden, mistakes: Sequence[Mutant], path: Path, *, top: int = 20) -> Path:
    lines = []
    for key, array in _values(golden, mistakes, PICTURE).items():
        if key.name == "logits":
            found = log_softmax(array[0, -1].astype(np.float64))
            likeliest = np.argsort(found)[len(found) - top :]
            logprobs = {str(token): float(found[token]) for token in likeliest}
            lines.append({"step": key.call, "token": int(found.argmax()), "logprobs": logprobs})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_black_box_is_judged_and_diagnosed(golden: Golden, tmp_path: Path) -> None:
    options = ("--case", PICTURE, "--tokens")
    right = _tokens(golden, [], tmp_path / "right.jsonl")
    answer = call("judge", golden.bundle, *options, right)
    answer.succeeds()
    assert "100 log-probabilities at 5 places are within their gates" in answer.stdout
    wrong = _tokens(golden, chosen(["merger-gelu-tanh"]), tmp_path / "wrong.jsonl")
    answer = call("judge", golden.bundle, *options, wrong)
    answer.succeeds(code=1)
    assert "a log-probability is off by" in answer.stdout
    bundle = Bundle(golden.bundle)
    judged = judge_tokens(bundle.cases[PICTURE], read_steps(wrong), "float32")
    few = chosen(["merger-gelu-tanh", "merger-norm-after-merge", "text-v-turned", "picture-bgr", "vision-norm1-rms"])
    found = diagnose_tokens(bundle, [judged], library=few)[0]
    assert [one.ids for one in found.explanations] == [("merger-gelu-tanh",)]
    assert not diagnose_tokens(bundle, [judged], library=few[1:])[0].explanations
    alone = _tokens(golden, [], tmp_path / "alone.jsonl", top=0)
    answer = call("judge", golden.bundle, *options, alone)
    answer.succeeds(code=3)
    assert "which proves little" in answer.stdout


def test_what_each_of_several_mistakes_takes_away_of_a_black_box_is_said(golden: Golden, tmp_path: Path) -> None:
    made = chosen(["picture-bgr", "patch-embed-in-float16", "vision-norm1-rms"])
    others = chosen(["merger-norm-after-merge", "text-v-turned", "vision-qkv-without-bias"])
    judged = judge_tokens(
        Bundle(golden.bundle).cases[PICTURE],
        read_steps(_tokens(golden, made, tmp_path / "wrong.jsonl")),
        "float32",
    )
    bundle = Bundle(golden.bundle)
    found = diagnose_tokens(bundle, [judged], library=[*others, *made])[0]
    assert not found.explanations  # three are not tried as one cause
    assert found.nearest is not None
    assert set(found.nearest.ids) == {mutant.id for mutant in made}
    assert [len(step.mutants) for step in found.chain] == [0, 1, 2, 3]
    figures = [step.largest or 0.0 for step in found.chain]
    assert figures == sorted(figures, reverse=True)
    assert figures[-1] < 0.01 * figures[0]
    words = f"its largest difference, {figures[0]:.2g} nats, falls to {figures[1]:.2g} with picture-bgr, to "
    assert words in headline([found], 6)
    assert words in bug_report([found], hypotheses=6, command="parity diagnose", bundle=bundle)
    without = diagnose_tokens(bundle, [judged], library=others)[0]
    assert len(without.chain) == 1
    assert without.nearest is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no line"),
        ("{", "line 1 is not JSON"),
        ('{"step": 0, "token": 1, "logprobs": {"1": NaN}}', "no log-probability"),
        ('{"step": 0, "token": 1, "logprobs": {"x": 1}}', "does not match"),
        ('{"step": 0, "token": 1}\n{"step": 0, "token": 1}', "two lines of one row and step"),
        ('{"step": 9, "token": 1}', "has rows 0 to 0 and steps 0 to 4"),
        ('{"step": 0, "token": 999999999}', "the vocabulary"),
    ],
)
def test_bad_tokens_are_refused(text: str, words: str, golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    path.write_text(text, encoding="utf-8")
    call("judge", golden.bundle, "--case", PICTURE, "--tokens", path).refuses(words)
