"""Every check of a milestone passes for the port, and fails for a port with a mistake that it must see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import port.text
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.milestones.checks import CHECKS, generation, kill, named_mutants, relations
from parity.milestones.plan import Item, standard
from parity.milestones.records.evidence import verdict_of
from parity.mutants import matrix
from parity.mutants.registry import ALL, chosen
from parity.relations.examples import example
from parity.relations.spec import build
from parity.runs.loader import Loader

CHECK = Item("check", "check", "check")
TEXT = {"tokens": 3, "cases": ["text"]}
WEIGHTS = {"cases": ["conv3d-tiny"], "mutants": ["conv3d-weight-frames-reversed"]}


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(tmp_path_factory.mktemp("cache"))


def verdict(content: dict[str, Any]) -> tuple[Verdict, str]:
    found = verdict_of(CHECK, content)
    return found.verdict, found.reason


def test_relations_are_kept_and_a_mistake_breaks_them(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict(relations({"examples": 3}, loader)) == (Verdict.PARITY, "all 7 tests passed")
    original = port.text.causal_mask
    monkeypatch.setattr("port.model.causal_mask", lambda visible, n: original(torch.ones_like(visible), n))
    content = relations({"examples": 3}, loader)
    assert verdict(content)[0] is Verdict.DIVERGED
    broken = {test[0] for test in content["tests"] if test[1] == "broken"}
    assert {"rows-are-alone", "padding-is-unseen"} <= broken
    assert "transposed-picture" not in broken


def test_a_port_that_raises_breaks_a_relation(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(*_: object) -> None:
        raise IndexError("out of range")

    monkeypatch.setattr("port.model.causal_mask", raising)
    content = relations({"examples": 1}, loader)
    assert content["tests"][0][1:] == ["broken", None, 1e-10, "example 0 raised IndexError: out of range"]
    assert verdict(content)[0] is Verdict.DIVERGED


def test_examples_are_the_same_for_a_seed_and_fit_the_port() -> None:
    assert example(3) == example(3) != example(4)
    specs = [example(seed) for seed in range(30)]
    for spec in specs:
        build(spec)
    assert {spec.side for spec in specs} == {"left", "right"}
    assert {spec.tied for spec in specs} == {True, False}


def test_generation_is_the_same_and_a_mistake_is_seen(loader: Loader) -> None:
    assert verdict(generation(TEXT, loader))[0] is Verdict.PARITY
    with chosen(["final-norm-without-weight"])[0].plant():
        value, reason = verdict(generation({"tokens": 8, "cases": ["text"]}, loader))
    assert value is Verdict.DIVERGED
    assert "text, row 0, 8 tokens: differs (at token" in reason


def test_the_kill_matrix_sees_its_mutants(loader: Loader) -> None:
    content = kill(WEIGHTS, loader)
    assert content["tests"] == [["conv3d-weight-frames-reversed", "caught", 0, 0, ""]]
    not_shown = kill({"cases": ["conv3d-tiny"], "mutants": ["final-norm-skipped"]}, loader)
    assert verdict(not_shown)[0] is Verdict.INCOMPLETE


def test_a_mutant_that_survives_refuses(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "fate", lambda *_: "survived")
    assert verdict(kill(WEIGHTS, loader))[0] is Verdict.DIVERGED


def test_a_port_on_which_no_mutant_can_be_judged_leaves_it_incomplete(loader: Loader) -> None:
    with chosen(["conv3d-weight-kernel-transposed"])[0].plant():
        content = kill(WEIGHTS, loader)
    assert content["error"]["side"] == "missing"
    assert "does not pass conv3d-tiny" in verdict(content)[1]
    assert verdict(content)[0] is Verdict.INCOMPLETE


def test_a_port_that_fails_a_case_of_a_kill_matrix_is_refused_by_the_case() -> None:
    cases = {item.name for phase in standard().phases for item in phase.cases if item.dtype == "float32"}
    checks = [item for phase in standard().phases for item in phase.items if item.name == "kill-matrix"]
    assert len(checks) == 3
    assert all(set(check.detail["cases"]) <= cases for check in checks)


def test_the_standard_names_every_component_and_mutants_that_exist() -> None:
    details = [item.detail for phase in standard().phases for item in phase.items]
    named = {name for detail in details for name in named_mutants(detail)}
    assert named == {mutant.id for mutant in ALL}
    assert {item.name for phase in standard().phases for item in phase.items if item.kind == "check"} == set(CHECKS)
    with pytest.raises(ParityError, match="there is no component 'nope'"):
        named_mutants({"components": ["nope"]})


def test_the_example_of_another_port_is_read() -> None:
    from parity.milestones.plan import STANDARD, read_milestones

    example_file = read_milestones(Path(STANDARD).parent / "example-rust.toml")
    assert example_file.subject.traces == STANDARD.parent.absolute() / "traces"
