"""Mistakes that one case does not tell apart: another case is found that does, and the engine is asked about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.tokens.asking import as_lines
from parity.bundles.tokens.blackbox import JudgedTokens, case_of, judge_tokens, log_softmax, read_steps
from parity.core.errors import ParityError
from parity.diagnosis.diagnose import Diagnosed, diagnose_tokens, headline
from parity.diagnosis.planted import PlantedRuns
from parity.diagnosis.telling_apart import APART, tell_apart
from parity.engines import registry
from parity.engines.questions import Answer, Question, Token
from parity.kernels.plain import PlainKernels
from parity.mutants.base import Mutant, altered
from tests.parity.bundles.samples import PICTURE, TEXT, Golden
from tests.parity.cli.samples import call


@contextmanager
def _scaled(*, only_with_pictures: bool, factor: float = 1.01) -> Iterator[None]:
    """The last norm's output is too large; with ``only_with_pictures``, only if the vision tower ran before."""
    ran = [not only_with_pictures]

    def see(value: Tensor, *_: object) -> Tensor:
        ran[0] = True
        return value

    def change(value: Tensor, *_: object) -> Tensor:
        return value * factor if ran[0] else value

    with altered("vision.patch_embed", see), altered("text.norm", change):
        yield


def _mistake(name: str, **options: float) -> Mutant:
    plant = lambda: _scaled(only_with_pictures=name == "pictures", **options)  # noqa: E731
    return Mutant(id=name, title=name, component="?", seam="text.norm", step="*", plant=plant)


ALWAYS, PICTURES, NEITHER = _mistake("always"), _mistake("pictures"), _mistake("neither", factor=1.02)
LIBRARY = [ALWAYS, PICTURES]


def _answers(case: BundleCase, mistakes: Sequence[Mutant]) -> list[Answer]:
    """What an engine with mistakes gives: the port, with its sums in plain order."""
    runs = PlantedRuns(case, case.folder / case.record["checkpoint"]["folder"], dtype="float32")
    found = runs.values(mistakes, "model", kernels=PlainKernels())
    mask = next(array for key, array in found.items() if key.name == "attention_mask")
    answers = []
    for row in range(len(mask)):
        tokens = []
        for key, array in found.items():
            if key.name == "logits":
                last = int(np.flatnonzero(mask[row])[-1]) if key.call == 0 else 0
                logprobs = log_softmax(array[row, last].astype(np.float64))
                top = {int(token): float(logprobs[token]) for token in np.argsort(logprobs)[-20:]}
                tokens.append(Token(int(logprobs.argmax()), top))
        answers.append(Answer.of_tokens([], "", 1) if not tokens else Answer(tokens, "", 1))
    return answers


def _tokens(golden: Golden, name: str, mistakes: Sequence[Mutant], folder: Path) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text(as_lines(_answers(Bundle(golden.bundle).cases[name], mistakes), "mine", name), encoding="utf-8")
    return path


def _judged(bundle: Bundle, path: Path) -> JudgedTokens:
    steps = read_steps(path)
    return judge_tokens(case_of(bundle, steps), steps, "float32")


@pytest.fixture(scope="module")
def class_of_two(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mutant], list[Diagnosed]]:
    """Diagnoses a mistake from the case with a picture, once for each mistake."""

    @cache
    def diagnosed(mistake: Mutant) -> list[Diagnosed]:
        bundle = Bundle(golden.bundle)
        judged = _judged(bundle, _tokens(golden, PICTURE, [mistake], tmp_path_factory.mktemp("tokens")))
        return diagnose_tokens(bundle, [judged], library=LIBRARY)

    return diagnosed


def test_the_input_is_proposed(golden: Golden, class_of_two: Callable[[Mutant], list[Diagnosed]]) -> None:
    found = class_of_two(PICTURES)
    assert {one.ids for one in found[0].explanations} == {("always",), ("pictures",)}
    same, (proposed,) = tell_apart(Bundle(golden.bundle), found)
    assert proposed.case == TEXT
    assert proposed.separation > APART
    assert proposed.left is None
    assert "ask the engine about it" in proposed.sentence()
    assert [one.explanations for one in same] == [one.explanations for one in found]


@pytest.mark.parametrize(
    ("mistake", "then", "left"),
    [
        (ALWAYS, [ALWAYS], [("always",)]),
        (PICTURES, [PICTURES], [("pictures",)]),
        (ALWAYS, [NEITHER], []),  # an engine that does something else on the other case
    ],
)
def test_an_engine_that_is_asked_decides(
    mistake: Mutant,
    then: list[Mutant],
    left: list[tuple[str, ...]],
    golden: Golden,
    class_of_two: Callable[[Mutant], list[Diagnosed]],
    tmp_path: Path,
) -> None:
    bundle = Bundle(golden.bundle)
    asked: list[str] = []

    def ask(case: BundleCase, checkpoint: Path) -> JudgedTokens:
        assert checkpoint.is_dir()
        asked.append(case.name)
        return _judged(bundle, _tokens(golden, case.name, then, tmp_path))

    found, inputs = tell_apart(bundle, class_of_two(mistake), ask=ask)
    assert asked == [TEXT]
    assert [one.left for one in inputs] == [tuple(left)]
    assert [one.ids for one in found[0].explanations] == left
    assert found[1].judged.case == TEXT
    said = headline(found, len(LIBRARY))
    assert f"explained by {left[0][0]}" in said if left else "none of 2 known mistakes explains it" in said


def test_tokens_of_several_cases_must_agree(golden: Golden, tmp_path: Path) -> None:
    bundle = Bundle(golden.bundle)
    judged = [_judged(bundle, _tokens(golden, name, [PICTURES], tmp_path)) for name in (PICTURE, TEXT)]
    found = diagnose_tokens(bundle, judged, library=LIBRARY)
    assert [one.ids for one in found[0].explanations] == [("pictures",)]
    assert not found[1].diverged


def test_without_another_case_nothing_is_proposed(
    golden: Golden, class_of_two: Callable[[Mutant], list[Diagnosed]], tmp_path: Path
) -> None:
    bundle = Bundle(golden.bundle)
    del bundle.cases[TEXT]
    assert tell_apart(bundle, class_of_two(ALWAYS))[1] == []


class _Engine:
    """An engine of the registry with a mistake."""

    title = "mine 1.0"

    def __init__(self, golden: Golden, mistake: Mutant) -> None:
        self._golden, self._mistake = golden, mistake

    def unavailable(self) -> str | None:
        return None

    def answer(self, folder: Path, questions: Sequence[Question], **_: object) -> list[Answer]:
        assert all(not question.images for question in questions)
        return _answers(Bundle(self._golden.bundle).cases[TEXT], [self._mistake])


def test_the_command_asks_and_says_what_is_left(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose_tokens.__kwdefaults__ is not None
    monkeypatch.setitem(diagnose_tokens.__kwdefaults__, "library", LIBRARY)
    monkeypatch.setattr("parity.cli.commands.engine.registered", lambda _name: _Engine(golden, PICTURES))
    tokens = _tokens(golden, PICTURE, [PICTURES], tmp_path)
    answer = call("diagnose", golden.bundle, "--tokens", tokens, "--ask", registry.FOREIGN[0], "--json")
    document = json.loads(answer.stdout)
    (asked,) = document["next_inputs"]
    assert asked["left"] == [["pictures"]]
    assert "what the engine gave there leaves pictures" in asked["text"]
    kept = tmp_path / f"{PICTURE}-{TEXT}.jsonl"
    assert {step.case for step in read_steps(kept)} == {TEXT}
    assert f"--tokens {tokens} --tokens {kept}" in document["bug_report"]
    answer = call("diagnose", golden.bundle, "--tokens", tokens, "--ask", registry.FOREIGN[0])
    answer.refuses("exists already; give it with --tokens")
    with monkeypatch.context() as patch:
        patch.setattr("parity.diagnosis.telling_apart.APART", 1e9)
        answer = call("diagnose", golden.bundle, "--tokens", tokens)
        assert "No other case of the bundle tells these mistakes apart" in answer.stdout
    both = call("diagnose", golden.bundle, "--tokens", tokens, "--tokens", kept, "--json")
    assert json.loads(both.stdout)["conclusion"]["text"] == "explained by pictures"


def test_the_case_of_tokens_is_checked(golden: Golden, tmp_path: Path) -> None:
    bundle = Bundle(golden.bundle)
    steps = read_steps(_tokens(golden, TEXT, [], tmp_path))
    with pytest.raises(ParityError, match=f"the tokens are of {TEXT}, not of {PICTURE}"):
        case_of(bundle, steps, [PICTURE])
    tokens = tmp_path / f"{TEXT}.jsonl"
    answer = call("diagnose", golden.bundle, "--tokens", tokens, "--case", TEXT, "--case", PICTURE)
    answer.refuses("--tokens is given 1 times, --case 2 times")
