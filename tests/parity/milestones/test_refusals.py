"""The table of refusals: what must not be signed off or verified, each with the reason that is given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from parity.cli.commands import signoff_verify
from parity.milestones.collect import Earlier, collect, read_earlier
from parity.milestones.plan import Milestones
from parity.milestones.records import verify
from parity.milestones.records.record import dump, make_record, verdicts
from parity.milestones.records.verify import Record
from tests.parity.milestones.samples import PLAN, TODAY, WAIVER, Stub, case_content, plan, record, surroundings

Statement = dict[str, Any]
PHOTO = "case:photo:float32"
# What may differ between two runs of the same thing has no digest.
UNSEALED = "predicate.signoff.run."


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path that ends at a text, a number, a truth value, null, or an empty list or object."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from leaves(part, (*path, name))
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from leaves(part, (*path, index))
    else:
        yield path


def kind(path: tuple[Any, ...]) -> str:
    """A path without its indices: fields of the same kind are changed the same way."""
    return ".".join("#" if isinstance(part, int) else str(part) for part in path)


def changed_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return ["x"] if isinstance(value, list) else {"x": 1} if isinstance(value, dict) else "x"


def put(statement: Statement, path: tuple[Any, ...], value: Any) -> None:
    holder: Any = statement
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value


def at(statement: Statement, path: tuple[Any, ...]) -> Any:
    found: Any = statement
    for part in path:
        found = found[part]
    return found


def test_a_change_of_any_field_is_refused(tmp_path: Path) -> None:
    statement = record(plan(tmp_path, PLAN + WAIVER), Stub(**{PHOTO: case_content(figure=9e-7)}))
    kinds = {kind(path): path for path in leaves(statement)}
    assert len(kinds) > 150
    accepted = []
    for name, path in kinds.items():
        changed = copy.deepcopy(statement)
        put(changed, path, changed_value(at(statement, path)))
        assert changed != statement
        if not list(verify.changed(Record(tmp_path, changed))):
            accepted.append(name)
    assert [name for name in accepted if not name.startswith(UNSEALED)] == []


def test_a_removed_or_added_field_is_refused(tmp_path: Path) -> None:
    statement = record(plan(tmp_path))
    for name, path in {kind(path): path for path in leaves(statement)}.items():
        if isinstance(path[-1], int) or name.startswith(UNSEALED):
            continue
        without = copy.deepcopy(statement)
        del at(without, path[:-1])[path[-1]]
        more = copy.deepcopy(statement)
        at(more, path[:-1])["another"] = 1
        for changed in (without, more):
            (tmp_path / "record.json").write_text(json.dumps(changed), encoding="utf-8")
            assert _refused(tmp_path / "record.json", tmp_path) is not None, name


def _refused(path: Path, folder: Path) -> str | None:
    """The first reason for which a file is refused as a record."""
    from parity.core.errors import ParityError

    try:
        return next(verify.changed(verify.read_record(path)), None)
    except ParityError as error:
        return str(error)


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``parity signoff verify`` on a statement. Returns the exit code and what it said."""
    monkeypatch.setattr(verify, "code_digest", lambda _root: "c" * 64)
    monkeypatch.setattr(signoff_verify, "date", type("Day", (), {"today": staticmethod(lambda: TODAY)}))

    def run(statement: Statement, *, text: str = PLAN) -> tuple[int, str]:
        path = tmp_path / "signoff.json"
        path.write_bytes(dump(statement))
        milestones = plan(tmp_path, text).path
        options = signoff_verify.VerifyOptions(path, 0, 0, None, milestones)
        code = signoff_verify.verify_record(options)
        return code, capsys.readouterr().out

    return run


def _statement(
    milestones: Milestones, stub: Stub | None = None, *, code: str = "c" * 64, clean: bool = True, today: date = TODAY
) -> Statement:
    stub = stub or Stub()
    stub.keys["code"] = code
    found = collect(milestones.phases, stub, Earlier(), keep=lambda _name, _evidence: None)
    judged = verdicts(milestones, [], found.evidence, today=today)
    return make_record(milestones, judged, found, surroundings(stub, code=code, clean=clean, today=today))


def _sound(milestones: Milestones) -> Statement:
    return _statement(milestones)


def _one_figure(milestones: Milestones) -> Statement:
    made = _statement(milestones)
    made["predicate"]["signoff"]["evidence"][PHOTO]["values"][1][9] /= 2
    return made


def _missing_case(milestones: Milestones) -> Statement:
    """A case that was left out, with everything that follows from it computed again."""
    found = collect(milestones.phases, Stub(), Earlier(), keep=lambda _name, _evidence: None)
    del found.evidence[PHOTO]
    judged = verdicts(milestones, [], found.evidence, today=TODAY)
    return make_record(milestones, judged, found, surroundings(Stub(), clean=True))


def _missing_and_hidden(milestones: Milestones) -> Statement:
    """A case that was left out of the must-pass list of the record too, as if it had never been required."""
    short = plan(milestones.path.parent, PLAN.replace('"text", "photo"', '"text"'))
    made = _statement(short)
    made["predicate"]["signoff"]["milestones_file"]["sha256"] = milestones.sha256
    from tests.parity.milestones.test_verify import forge

    forge(made)
    return made


TABLE: dict[str, tuple[Callable[[Milestones], Statement], str, int, str]] = {
    # what: the record, the milestones that it is checked by, exit code, reason
    "sound": (_sound, PLAN, 0, "VERIFIED  SIGNED OFF"),
    "one figure changed": (_one_figure, PLAN, 1, f"evidence of {PHOTO}: figure of text.norm[0] (prefill) was changed"),
    "stale": (lambda m: _statement(m, code="d" * 64), PLAN, 1, "has the digest cccc"),
    "dirty": (lambda m: _statement(m, clean=False), PLAN, 1, "1 uncommitted change ( M port/text.py)"),
    "missing case": (_missing_case, PLAN, 3, f"INCOMPLETE: 1 of 2 milestones incomplete; phase 1: {PHOTO}: it was not"),
    "missing case, hidden": (_missing_and_hidden, PLAN, 1, f"{PHOTO} is required and missing in the record"),
    "needless waiver": (_sound, PLAN + WAIVER, 2, "its waiver is no longer needed, as it passes; remove the waiver"),
    "expired waiver": (
        lambda m: _statement(m, Stub(**{PHOTO: case_content(figure=9e-7)})),
        PLAN + WAIVER.replace("2027-01-31", "2027-01-09"), 1, "its waiver expired on 2027-01-09",
    ),
    "other milestones": (_sound, f"{PLAN}# a comment", 1, "has the sha256"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLE)
def test_the_table_of_refusals(what: str, verified: Any, tmp_path: Path) -> None:
    make, text, code, said = TABLE[what]
    # "other milestones" and the hidden case are made by one file and checked by another.
    own = PLAN if what in ("other milestones", "missing case, hidden") else text
    found, output = verified(make(plan(tmp_path, own)), text=text)
    assert said in output, output
    assert found == code
    assert ("VERIFIED  SIGNED OFF" in output) is (what == "sound")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"code": "d" * 64}, "the code has changed"),
        ({"dtype": "bfloat16"}, "dtype: was float32, is bfloat16"),
        ({"torch": "9"}, "torch: was 2.0, is 9"),
        ({"checkpoint": ["b" * 64]}, "the checkpoint has changed"),
        ({"definition": "other"}, "the case or check has changed"),
    ],
)
def test_stale_evidence_is_run_again_and_named(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    milestones = plan(tmp_path)
    folder = tmp_path / "signed" / "evidence"
    folder.mkdir(parents=True)

    def keep(name: str, evidence: Any) -> None:
        (folder / name).write_bytes(dump(evidence))

    collect(milestones.phases, Stub(), Earlier(), keep=keep)

    class Later(Stub):
        def key(self, item: Any) -> dict[str, Any]:
            return {**super().key(item), **keys}

    stub = Later()
    found = collect(milestones.phases, stub, read_earlier(tmp_path / "signed"), keep=lambda _name, _evidence: None)
    assert found.reused == []
    assert len(stub.given) == len(found.evidence)
    assert set(found.stale.values()) == {said}
