"""Shards: each thing is in one, what is merged equals one run, and shards that do not belong together are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.milestones import merge
from parity.milestones.collect import Earlier, collect
from parity.milestones.merge import merge_records, merge_suites
from parity.milestones.plan import Milestones
from parity.milestones.records import verify
from parity.milestones.records.record import dump, make_record, verdicts
from parity.milestones.records.verify import Record, read_record
from parity.milestones.shards import Shard, read_shard
from tests.parity.milestones.samples import TODAY, Stub, plan, record, surroundings

Document = dict[str, Any]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_every_thing_is_in_exactly_one_shard(count: int) -> None:
    things = list("abcdefg")
    shards = [Shard(index, count).mine(things) for index in range(1, count + 1)]
    assert sorted(thing for shard in shards for thing in shard) == things
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "2/0", "1/1001", "a/b", "1/2/3", "-1/4", "1.5/2", " 1/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ParityError, match="is not a shard"):
        read_shard(text)
    assert str(read_shard("2/4")) == "2/4"


@pytest.fixture
def milestones(tmp_path: Path) -> Milestones:
    return plan(tmp_path)


@pytest.fixture
def shards(milestones: Milestones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records of two shards, as files."""
    monkeypatch.setattr(verify, "code_digest", lambda _root: "c" * 64)
    monkeypatch.setattr(merge, "date", type("Day", (), {"today": staticmethod(lambda: TODAY)}))
    return [_shard(milestones, tmp_path, Shard(index, 2)) for index in (1, 2)]


def _shard(milestones: Milestones, folder: Path, shard: Shard, stub: Stub | None = None) -> Record:
    source = stub or Stub()
    found = collect(milestones.phases, source, Earlier(), keep=lambda _name, _evidence: None, shard=shard)
    judged = verdicts(milestones, [], found.evidence, today=TODAY)
    path = folder / f"shard-{shard.index}.json"
    path.write_bytes(dump(make_record(milestones, judged, found, surroundings(source, created=str(shard)))))
    return read_record(path)


def _merged(records: list[Record], milestones: Milestones, folder: Path) -> Document:
    found, about, phases = merge_records(records, milestones, folder)
    judged = verdicts(milestones, phases, found.evidence, today=about.today)
    return make_record(milestones, judged, found, about)


def test_merged_evidence_equals_that_of_one_run(shards: list[Record], milestones: Milestones, tmp_path: Path) -> None:
    one = record(milestones)["predicate"]["signoff"]
    both = _merged(shards, milestones, tmp_path)["predicate"]["signoff"]
    for name in one:
        if name != "run":
            assert both[name] == one[name], name
    assert both["run"]["items"].keys() == one["run"]["items"].keys()
    assert all(found.signed["verdict"]["value"] == "INCOMPLETE" for found in shards)
    assert _merged(shards[::-1], milestones, tmp_path)["predicate"]["signoff"]["digest"] == one["digest"]


def test_a_missing_shard_makes_the_sign_off_incomplete(
    shards: list[Record], milestones: Milestones, tmp_path: Path
) -> None:
    alone = _merged(shards[:1], milestones, tmp_path)["predicate"]["signoff"]
    assert alone["verdict"]["value"] == "INCOMPLETE"
    assert "case:photo:float32: it was not run" in alone["milestones"][0]["reason"]


Edit = Callable[[Milestones, Path], Record]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda m, f: _shard(m, f, Shard(2, 2), _stub(code="d" * 64)), "key.code is dddd"),
        (lambda m, f: _changed(m, f), "cannot be merged: versions was changed"),
        (lambda m, f: _other(m, f, versions={"torch": "9"}), "version of torch is 9 there, and 2.0"),
        (lambda m, f: _other(m, f, checkpoints={"tiny": "b" * 64}), "its checkpoint tiny has the sha256 bbbb"),
        (lambda m, f: _other(m, f, code="d" * 64), "cannot be merged: code"),
    ],
    ids=["key", "changed", "versions", "checkpoint", "code"],
)
def test_records_that_do_not_belong_together_are_refused(
    made: Edit, said: str, shards: list[Record], milestones: Milestones, tmp_path: Path
) -> None:
    other = made(milestones, tmp_path)
    with pytest.raises(ParityError, match=said):
        _merged([shards[0], other], milestones, tmp_path)


def _stub(**keys: str) -> Stub:
    stub = Stub()
    stub.keys |= keys
    return stub


def _other(milestones: Milestones, folder: Path, **about: Any) -> Record:
    source = Stub()
    source.keys |= about.get("versions", {})
    found = collect(milestones.phases, source, Earlier(), keep=lambda _n, _e: None, shard=Shard(2, 2))
    judged = verdicts(milestones, [], found.evidence, today=TODAY)
    path = folder / "other.json"
    path.write_bytes(dump(make_record(milestones, judged, found, surroundings(source, **about))))
    return read_record(path)


def _changed(milestones: Milestones, folder: Path) -> Record:
    found = copy.deepcopy(dict(_shard(milestones, folder, Shard(2, 2)).statement))
    found["predicate"]["signoff"]["versions"]["numpy"] = "0"
    return Record(folder / "changed.json", found)


def _suite(index: int, count: int = 2, **changes: Any) -> tuple[Path, Document]:
    selected = ["a", "b", "c"]
    lines: list[Mapping[str, Any]] = [{"name": name} for name in Shard(index, count).mine(selected)]
    made_with = {"code": "c" * 64, "versions": {"torch": "2"}, "dtype": "float32", "checkpoints": {"tiny": "a" * 64}}
    document: Document = {
        "made_with": made_with | changes.pop("made_with", {}),
        "selected": selected,
        "shard": {"index": index, "count": count},
        "cases": lines,
        "totals": {"forwards": 2, "seconds": 1.5},
    }
    return Path(f"shard-{index}"), document | changes


def test_suites_are_merged_in_the_order_of_one_run() -> None:
    merged = merge_suites([_suite(2), _suite(1)], code="c" * 64)
    assert [line["name"] for line in merged.lines] == ["a", "b", "c"]
    assert (merged.forwards, merged.seconds, merged.missing) == (4, 3.0, [])
    assert merged.folders["b"] == Path("shard-2")
    assert merge_suites([_suite(3, 3)], code="c" * 64).missing == ["shard 1/3", "shard 2/3"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"made_with": {"code": "d" * 64}}, "code is dddd"),
        ({"made_with": {"versions": {"torch": "3"}}}, "version of torch is 3 there, and 2"),
        ({"made_with": {"dtype": "bfloat16"}}, "dtype is bfloat16"),
        ({"made_with": {"checkpoints": {"tiny": "b" * 64}}}, "its checkpoint tiny has the sha256 bbbb"),
        ({"selected": ["a", "b"]}, "selection of cases is a, b there"),
        ({"shard": {"index": 2, "count": 3}}, "number of shards is 3"),
        ({"shard": {"index": 1, "count": 2}}, "are both shard 1/2"),
        ({"shard": None}, "is no shard"),
        ({"cases": [{"name": "a"}]}, "has the case a, which is not in its shard"),
    ],
)
def test_suites_that_do_not_belong_together_are_refused(changes: Document, said: str) -> None:
    with pytest.raises(ParityError, match=said):
        merge_suites([_suite(1), _suite(2, **changes)], code="c" * 64)


def test_suites_of_other_code_than_the_installation_are_refused() -> None:
    with pytest.raises(ParityError, match="is of other code"):
        merge_suites([_suite(1), _suite(2)], code="e" * 64)
