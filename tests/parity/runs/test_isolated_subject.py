"""A port that fails in any way fails its case, and takes nothing else down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import port
from parity.cases.case import TIED, TINY, Case
from parity.cases.standard import SMALL
from parity.cli.commands.mutants import mutants
from parity.core.verdict import Verdict
from parity.milestones.suite import CaseSummary, run_one
from parity.mutants.base import around, replaced
from parity.mutants.matrix import kill_matrix
from parity.mutants.registry import chosen
from parity.runs.case_run import run_case
from parity.runs.loader import Loader
from port import Qwen3VLConfig
from port.model import Qwen3VL
from port.processor import Processor

PICTURE = Case("picture", "a picture", 1, TINY, (("See ", SMALL, " there"),), decode_steps=1)
TEXT = Case("short", "text", 1, TIED, (("Hi.",),), decode_steps=1)
WEIGHTS = Case("weights", "every tensor", 2, TINY, stages=("weights",))


def _fails(*_args: Any, **_kwargs: Any) -> Any:
    raise TypeError("planted")


PLACES: dict[str, tuple[Any, str]] = {
    "reading the config": (Qwen3VLConfig, "from_folder"),
    "loading the model": (port, "load_model"),
    "loading the processor": (Processor, "load"),
    "a helper that the harness could use too": (port.model, "mrope_positions"),
    "the name of a tensor": (port.weights, "published_name"),
    "prefill": (Qwen3VL, "prefill"),
    "decode": (Qwen3VL, "decode"),
}


def _planted(place: str) -> Any:
    owner, name = PLACES[place]
    return around(owner, name, _fails)


@pytest.mark.parametrize("place", PLACES)
def test_a_port_that_raises_anywhere_has_diverged(loader: Loader, place: str) -> None:
    fresh = Loader(loader.folder)
    with _planted(place):
        run = run_case(PICTURE, fresh, dtype="float32")

    assert run.result.judgement.verdict is Verdict.DIVERGED
    assert "TypeError: planted" in run.result.judgement.reason


@pytest.mark.parametrize("place", ["reading the config", "loading the model", "loading the processor"])
def test_a_port_that_cannot_load_has_diverged_at_loading(loader: Loader, place: str) -> None:
    with _planted(place):
        judgement = run_case(PICTURE, Loader(loader.folder), dtype="float32").result.judgement
    assert judgement.reason.startswith("first divergence at loading: ")
    assert judgement.first_divergence is None
    assert judgement.seams_compared == 0


def test_the_suite_goes_on_after_a_defect_of_the_harness(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case is isolated, and the finished ones are kept."""
    original = Loader.inputs
    monkeypatch.setattr(
        Loader, "inputs", lambda self, case, *a, **k: _fails() if case is PICTURE else original(self, case, *a, **k)
    )
    lines = _suite([TEXT, PICTURE, WEIGHTS], loader)
    assert [line.judgement.verdict for line in lines] == [Verdict.PARITY, Verdict.INVALID, Verdict.PARITY]
    assert "TypeError: planted" in lines[1].judgement.reason
    assert "parity --debug run --case picture" in lines[1].judgement.reason


def test_a_full_disk_ends_the_suite(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Loader, "inputs", full)
    with pytest.raises(OSError, match="No space left"):
        _suite([PICTURE], loader)


def _suite(cases: list[Case], loader: Loader) -> list[CaseSummary]:
    own = Loader(loader.folder)
    return [run_one(case, own, dtype="float32", finished=lambda _run: None) for case in cases]


def test_the_kill_matrix_goes_on_with_the_cases_that_the_port_passes(loader: Loader) -> None:
    planted = chosen(["text-v-normed"])
    original = Qwen3VL.prefill

    def fails_with_pictures(self: Qwen3VL, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return _fails() if inputs.pixel_values is not None else original(self, inputs, *args, **kwargs)

    with replaced(Qwen3VL, "prefill", fails_with_pictures):
        matrix = kill_matrix(planted, [PICTURE, TEXT], Loader(loader.folder), dtype="float32")
    assert list(matrix.broken) == ["picture"]
    assert "TypeError: planted" in matrix.broken["picture"]
    assert [outcome.case for outcome in matrix.results[0].outcomes] == ["short"]
    assert not matrix.proven


def test_a_broken_port_is_a_divergence_of_the_mutants_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with around(Qwen3VL, "prefill", _fails):
        code = mutants(
            cases=("config-traps",),
            every_case=False,
            ids=("text-v-normed",),
            dtype="float32",
            out=tmp_path / "report",
            as_json=False,
        )
    assert code == 1
    assert "does not pass config-traps" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "report" / "report.json").is_file()
