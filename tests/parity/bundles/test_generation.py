"""Generation in a bundle: judged as any stage, and a bundle that answers other requests than it asks is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.bundles.bundle import Bundle
from parity.bundles.checks import check_stage
from parity.bundles.judging import Selection, judge_folder, total
from parity.bundles.making import Recipe, make_bundle
from parity.bundles.trace import BundleTrace
from parity.cases.case import TINY, Case, Request
from parity.cases.generation import config
from parity.core.errors import ParityError
from parity.core.trace import PADDING, Description, SeamKey
from parity.core.values import ValuesTrace
from parity.core.verdict import Verdict
from parity.diagnosis.diagnose import diagnose
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.evidence import TraceEvidence
from parity.diagnosis.planted import PlantedRuns
from parity.diagnosis.search import Search
from parity.mutants.registry import chosen
from parity.runs.case_run import run_case
from parity.runs.loader import Loader
from parity.runs.store import TraceStore
from parity.seams.generation import rows_of

ROWS = (("Hi.",), ("A longer question, for nothing?",), ("Two words",))
CASE = Case(
    "talk",
    "three rows that end at different times",
    4,
    TINY,
    ROWS,
    stages=("processor", "generation"),
    requests=(
        Request(config(eos_token_id=3), 4, end_after=(2, None, 3)),
        Request(config(do_sample=True, top_k=30, top_p=0.9, repetition_penalty=1.2, eos_token_id=3), 3, seed=4),
    ),
)


@pytest.fixture(scope="module")
def bundle(loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("golden") / "bundle"
    folder.mkdir()
    return make_bundle(folder, Recipe([CASE], ["float32"]), loader)


@pytest.fixture(scope="module")
def traces(loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Path]:
    """Write the port's traces, with a mistake planted or without one."""
    made: dict[str | None, Path] = {}

    def write(mutant: str | None) -> Path:
        if mutant not in made:
            place = made[mutant] = tmp_path_factory.mktemp("traces")
            planted = [] if mutant is None else chosen([mutant])
            store = TraceStore(place / CASE.name)
            if planted:
                with planted[0].plant():
                    run_case(CASE, loader, dtype="float32", store=store)
            else:
                run_case(CASE, loader, dtype="float32", store=store)
        return made[mutant]

    return write


def test_the_port_passes(bundle: Bundle, traces: Callable[[str | None], Path]) -> None:
    results = judge_folder(bundle, traces(None), Selection())
    assert [(result.stage, result.judgement.verdict) for result in results] == [
        ("processor", Verdict.PARITY),
        ("generation", Verdict.PARITY),
    ]
    assert bundle.cases["talk"].dtypes == ("float32",)


@pytest.mark.parametrize(
    ("mutant", "seam"),
    [
        ("penalty-subtracted", "generation.repetition_penalty"),
        ("top-p-crossing-dropped", "generation.top_p"),
        ("draw-one-generator", "generation.tokens"),
        ("ended-row-goes-on", "generation.ended"),
    ],
)
def test_a_mistake_is_found(bundle: Bundle, traces: Callable[[str | None], Path], mutant: str, seam: str) -> None:
    results = judge_folder(bundle, traces(mutant), Selection(stages=["generation"]))
    verdict, reason = total(results)
    assert verdict is Verdict.DIVERGED
    assert f"first divergence at {seam}" in reason


@pytest.mark.parametrize("mutant", ["penalty-subtracted", "draw-one-generator", "ended-row-goes-on"])
def test_a_mistake_is_named(bundle: Bundle, loader: Loader, traces: Callable[[str | None], Path], mutant: str) -> None:
    checkpoint = loader.checkpoint(TINY)
    found = diagnose(bundle, traces(mutant), Selection(stages=["generation"]), checkpoints=[checkpoint])
    assert [one.ids for one in found[0].explanations] == [(mutant,)]


def test_a_mistake_of_the_model_is_named_by_its_logits(bundle: Bundle, loader: Loader) -> None:
    (mutant,) = chosen(["text-gqa-tiled"])
    case = bundle.cases["talk"]
    runs = PlantedRuns(case, loader.checkpoint(TINY), dtype="float32")
    reference, floors = check_stage(case, "generation", "float32")
    sound = runs.values((), "generation")
    assert sound.keys() == reference.entries().keys()
    subject = ValuesTrace(Description("engine", "", "float32", "talk"), runs.values((mutant,), "generation"))
    search = Search(TraceEvidence(subject, reference, floors), "generation", runs)
    assert search.first == SeamKey("generation.logits", 0)
    found = search(HYPOTHESES)
    assert mutant.id in [one.id for trial in found.explanations for one in trial.mutants]
    assert (
        Search(TraceEvidence(ValuesTrace(subject.description, sound), reference, floors), "generation", runs).first
        is None
    )


def test_the_bundle_says_which_rows_have_ended(bundle: Bundle) -> None:
    reference = bundle.cases["talk"].reference("generation", "float32")
    ended = np.stack([reference.read(SeamKey("generation.ended", call)) for call in range(4)])  # (tokens, B)
    assert ended[-1].all()
    assert (ended[1:] >= ended[:-1]).all()
    assert ended[1].any()


def test_a_missing_trace_is_incomplete(bundle: Bundle, traces: Callable[[str | None], Path], tmp_path: Path) -> None:
    shutil.copytree(traces(None), tmp_path / "traces")
    shutil.rmtree(tmp_path / "traces" / "talk" / "subject-generation")
    assert total(judge_folder(bundle, tmp_path / "traces", Selection()))[0] is Verdict.INCOMPLETE


# A reference that was changed. The tests replace what a trace reads, as a forger who makes all digests again would.


def _forged(monkeypatch: pytest.MonkeyPatch, key: SeamKey, change: Callable[[np.ndarray], np.ndarray]) -> None:
    original = BundleTrace.read
    monkeypatch.setattr(
        BundleTrace, "read", lambda self, at: change(original(self, at).copy()) if at == key else original(self, at)
    )


def _set(place: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


FORGED = {
    "a greedy token": (SeamKey("generation.tokens", 1), lambda x: (x + 1) % 701, "is not the likeliest"),
    "a drawn token": (SeamKey("generation.tokens", 4), lambda x: x * 0, "has no probability"),
    "a token outside": (SeamKey("generation.tokens", 1), lambda x: x + 701, "is not in the vocabulary of 701"),
    "no probabilities": (SeamKey("generation.probabilities", 0), lambda x: x * 0.5, "do not add up to 1"),
    "an end too late": (SeamKey("generation.ended", 3), lambda x: x & False, "have ended, but go on"),
    "a token after an end": (SeamKey("generation.tokens", 3), _set(0, 701), "is not in the vocabulary of 701"),
    "an end too early": (SeamKey("generation.ended", 0), lambda x: x | True, "leave out rows"),
    "another length": (SeamKey("generation.settings", 0), _set(6, 9.0), "asks for 4 tokens, its settings say 9"),
    "drawing": (SeamKey("generation.settings", 1), _set(0, 0.0), "draws: True"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_reference_that_contradicts_itself_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    key, change, said = FORGED[what]
    _forged(monkeypatch, key, change)
    with pytest.raises(ParityError, match=said):
        check_stage(bundle.cases["talk"], "generation", "float32")


@pytest.mark.parametrize("seam", ["generation.logits", "generation.repetition_penalty", "generation.ended"])
def test_rows_that_have_not_ended_are_compared(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, seam: str) -> None:
    original = BundleTrace.labels
    hidden = rows_of(SeamKey(seam, 0))
    monkeypatch.setattr(
        BundleTrace,
        "labels",
        lambda self, key: np.full_like(original(self, key), PADDING) if key == hidden else original(self, key),
    )
    with pytest.raises(ParityError, match="leave out rows"):
        check_stage(bundle.cases["talk"], "generation", "float32")


def test_a_bundle_says_what_to_ask(bundle: Bundle) -> None:
    requests = bundle.cases["talk"].record["generation"]["requests"]
    assert [request["tokens"] for request in requests] == [4, 3]
    assert requests[1]["config"]["top_p"] == 0.9
    assert requests[1]["seed"] == 4
    assert json.dumps(requests)
