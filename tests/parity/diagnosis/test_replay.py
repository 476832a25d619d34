"""A run that goes on from kept media gives what a run of its own gives, whatever mistake is planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import port.pixels
from parity.bundles.bundle import Bundle, BundleCase
from parity.bundles.checks import check_stage
from parity.bundles.making import Recipe, make_bundle
from parity.cases.case import TINY, Case
from parity.cases.media import Clip, Noise
from parity.core.trace import Description, SeamKey
from parity.core.values import ValuesTrace
from parity.diagnosis.differences import HYPOTHESES
from parity.diagnosis.evidence import TraceEvidence, only
from parity.diagnosis.measuring import in_memory
from parity.diagnosis.planted import PROCESSOR, PlantedRuns
from parity.diagnosis.replay import replayed
from parity.diagnosis.search import Found, Search
from parity.mutants.base import Mutant, result_changed
from parity.mutants.registry import chosen
from parity.runs.loader import Loader

# A picture that is resized and one that is not, and a clip of which not all frames are kept.
_MEDIA = ("Two: ", Noise(96, 64, seed=1), " and ", Noise(150, 110, seed=2), " and ", Clip(9, 96, 64, fps=4.0), "?")
_BEFORE = Case("before", "the same names, other files", 4, TINY, (("Two: ", Noise(64, 96, seed=3), " so?"),))
CASE = Case(
    "media",
    "pictures and a video",
    4,
    TINY,
    (_MEDIA, ("Nothing to see.",)),
    stages=("processor",),
    before=(_BEFORE,),
)
PLANTED = [mutant for mutant in HYPOTHESES if mutant.stage == PROCESSOR]
# The number of seams of media that come before each mistake.
MEDIA_BEFORE = {
    "rgba-not-converted": 0,
    "resize-nearest": 1,
    "patches-transposed": 2,
    "frames-every-nth": 3,
    "video-bgr": 3,
    "video-patches-time-first": 6,
    "picture-grid-swapped": 2,
    "one-placeholder-too-few": 7,
    "pictures-kept-by-name": 0,
}


@pytest.fixture(scope="module")
def case(loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> BundleCase:
    folder = tmp_path_factory.mktemp("golden") / "bundle"
    folder.mkdir()
    recipe = Recipe([CASE], ["float32"], checkpoint_limit=2**30)
    return make_bundle(folder, recipe, loader).cases[CASE.name]


def _runs(case: BundleCase) -> PlantedRuns:
    return PlantedRuns(case, case.folder / case.record["checkpoint"]["folder"], dtype="float32")


Values = dict[SeamKey, np.ndarray]


def _run(runs: PlantedRuns, mutants: Sequence[Mutant]) -> tuple[str | None, Values]:
    values: Values = {}
    return runs.run(mutants, PROCESSOR, values.__setitem__), values


def _same(left: tuple[str | None, Values], right: tuple[str | None, Values]) -> bool:
    if left[0] != right[0] or left[1].keys() != right[1].keys():
        return False
    return all(np.array_equal(array, right[1][key]) for key, array in left[1].items())


def _differing(case: BundleCase, mutants: Sequence[Mutant], patch: pytest.MonkeyPatch) -> list[str]:
    """The mistakes for which a run from kept media differs from one of its own."""
    kept, own = _runs(case), _runs(case)
    found = []
    for mutant in mutants:
        quick = _run(kept, (mutant,))
        with patch.context() as context:
            context.setattr("parity.diagnosis.planted.replayed", lambda _: frozenset())
            whole = _run(own, (mutant,))
        if not _same(quick, whole):
            found.append(mutant.id)
    return found


def test_kept_media_give_what_a_run_of_its_own_gives(case: BundleCase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _differing(case, chosen(list(MEDIA_BEFORE)), monkeypatch) == []


@pytest.mark.slow
def test_that_holds_for_every_mistake_of_the_processor(case: BundleCase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _differing(case, PLANTED, monkeypatch) == []


def test_a_mistake_that_is_made_before_its_seam_would_be_noticed(
    case: BundleCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mutant,) = chosen(["resize-nearest"])
    late = replace(mutant, seam="processor.input_ids")
    assert _differing(case, [late], monkeypatch) == ["resize-nearest"]


def test_what_comes_before_a_mistake_is_kept() -> None:
    assert {name: len(replayed(chosen([name]))) for name in MEDIA_BEFORE} == MEDIA_BEFORE
    assert replayed(()) == frozenset()
    assert replayed(chosen(["one-placeholder-too-few", "resize-nearest"])) == replayed(chosen(["resize-nearest"]))


def test_kept_media_are_not_computed_again(case: BundleCase) -> None:
    runs = _runs(case)
    counted: list[Any] = []

    def count(size: Any) -> Any:
        counted.append(size)
        return size

    with result_changed(port.pixels, "smart_resize", count):
        _run(runs, chosen(["one-placeholder-too-few"]))
        first = len(counted)
        for name in ("placeholders-unmerged", "pictures-hoisted"):
            _run(runs, chosen([name]))
    assert first == len(counted) == 2  # both pictures, once
    assert runs.cost.started == 4
    assert runs.cost.runs < 3


def _found(case: BundleCase, name: str, without: str = "") -> tuple[Found, float]:
    """Diagnose the port with a mistake, from all values but those of a seam."""
    runs = _runs(case)
    values = runs.values(chosen([name]), PROCESSOR)
    reference, floors = check_stage(case, PROCESSOR, "float32")
    floors.yardstick = in_memory(reference)
    before = runs.cost.runs
    subject = ValuesTrace(Description("port with a mistake", "", "float32", case.name), values)
    evidence = TraceEvidence(subject, floors.yardstick, floors)
    evidence = only(evidence, [key for key in values if key.name != without])
    search = Search(evidence, PROCESSOR, runs)
    return search(HYPOTHESES), runs.cost.runs - before


@pytest.mark.parametrize("name", ["one-placeholder-too-few", "patches-columns-first", "resize-nearest"])
def test_a_diagnosis_of_the_processor_costs_at_most_three_runs(name: str, case: BundleCase) -> None:
    found, runs = _found(case, name)
    assert [trial.mutants[0].id for trial in found.explanations] == [name]
    assert runs <= 3


def test_a_mistake_whose_traits_the_case_lacks_comes_last_and_is_still_found(case: BundleCase) -> None:
    traits = {**case.record["traits"], PROCESSOR: ["image", "resized", "two frames a patch"]}
    bare = replace(case, record={**case.record, "traits": traits})
    assert not _runs(bare).shows(chosen(["frames-every-nth"])[0])
    found, runs = _found(bare, "frames-every-nth")
    assert [trial.mutants[0].id for trial in found.explanations] == ["frames-every-nth"]
    tried, cost = _found(case, "frames-every-nth")
    assert len(tried.tried) <= len(found.tried)
    assert cost <= runs


def test_all_are_tried_if_what_comes_before_the_first_divergence_was_not_given(case: BundleCase) -> None:
    lacking = "rescale-factor-fixed"
    found, _ = _found(case, "patches-columns-first")
    assert lacking not in found.tried
    found, _ = _found(case, "patches-columns-first", without="processor.images.0.resized")
    assert lacking in found.tried
    assert [trial.mutants[0].id for trial in found.explanations] == ["patches-columns-first"]


def test_what_another_checkpoint_sets_is_not_known(case: BundleCase, loader: Loader, tmp_path: Path) -> None:
    named = make_bundle(tmp_path, Recipe([CASE], ["float32"], named=loader.checkpoint(TINY)), loader)
    (mutant,) = chosen(["rescale-factor-fixed"])
    assert not _runs(case).shows(mutant)
    runs = PlantedRuns(named.cases[CASE.name], loader.checkpoint(TINY), dtype="float32")
    assert runs.shows(mutant)
    assert isinstance(Bundle(tmp_path).cases[CASE.name].traits(PROCESSOR), frozenset)
