"""Evidence is kept item by item, and reused only if it is fresh and unchanged."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.documents.signoff_run import spread_over
from parity.milestones.collect import EVIDENCE, Collected, collect, every_item, file_name, give_one, read_earlier
from parity.milestones.keys import checkout, code_digest
from parity.milestones.plan import Milestones
from parity.milestones.records.record import dump
from parity.workers.base import Workers
from parity.workers.messages import WorkerLost
from tests.parity.milestones.samples import Stub, plan, with_contents

TEXT, PHOTO = "case:text:float32", "case:photo:float32"
ALL = [TEXT, PHOTO, "relations", "mistakes:1"]


def sign(milestones: Milestones, stub: Stub, out: Path, *, reuse: Path | None = None) -> Collected:
    def keep(name: str, evidence: Mapping[str, Any]) -> None:
        (out / EVIDENCE).mkdir(parents=True, exist_ok=True)
        (out / EVIDENCE / name).write_bytes(dump(evidence))

    return collect(milestones.phases, stub, read_earlier(reuse), keep=keep)


@pytest.fixture
def milestones(tmp_path: Path) -> Milestones:
    return plan(tmp_path)


def test_what_is_fresh_is_not_run_again(milestones: Milestones, tmp_path: Path) -> None:
    first, stub = sign(milestones, Stub(), tmp_path / "a"), Stub()
    second = sign(milestones, stub, tmp_path / "b", reuse=tmp_path / "a")
    assert stub.given == []
    assert second.reused == ALL
    assert second.evidence == first.evidence
    assert first.reused == []
    third = Stub()
    assert sign(milestones, third, tmp_path / "c", reuse=tmp_path / "b").reused == ALL  # it can be handed on


class _Backwards(Workers):
    """Ends tasks in another order than they were given. Those of some items are lost."""

    def __init__(self, source: Stub, lost: Collection[str] = ()) -> None:
        super().__init__()
        self.source, self.lost, self.tasks = source, lost, list[tuple[Future[Any], Any]]()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append((Future(), args[0]))
        if len(self.tasks) == len(ALL):
            for future, task in reversed(self.tasks):
                self._end(future, task)
        return self.tasks[-1][0]

    def _end(self, future: Future[Any], task: Any) -> None:
        if task["item"] in self.lost:
            future.set_exception(WorkerLost("a worker ended three times"))
            return
        item = next(item for item in every_item(self.source.milestones.phases) if item.id == task["item"])
        future.set_result({"content": give_one(self.source, item)[1], "seconds": 0.5})


@pytest.mark.parametrize("lost", [(), (PHOTO,)])
def test_evidence_of_workers_is_that_of_one_process(
    lost: tuple[str, ...], milestones: Milestones, tmp_path: Path
) -> None:
    stub = Stub()
    stub.milestones = milestones
    give = spread_over(
        _Backwards(stub, lost), stub, milestones=milestones.path, folder=tmp_path, threads=1, progress=lambda _: None
    )
    found = collect(milestones.phases, stub, read_earlier(None), keep=lambda _name, _evidence: None, give=give)
    alone = sign(milestones, Stub(), tmp_path / "alone")
    assert list(found.evidence) == list(alone.evidence) == ALL
    for name in ALL:
        if name in lost:
            assert found.evidence[name]["error"] == {"side": "setup", "text": "a worker ended three times"}
        else:
            assert found.evidence[name] == alone.evidence[name]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("code", "d" * 64, "the code has changed"),
        ("dtype", "bfloat16", "dtype: was float32, is bfloat16"),
        ("torch", "2.1", "torch: was 2.0, is 2.1"),
        ("checkpoint", ["e" * 64], "the checkpoint has changed"),
    ],
)
def test_what_is_stale_is_run_again_and_says_why(
    name: str, value: object, why: str, milestones: Milestones, tmp_path: Path
) -> None:
    sign(milestones, Stub(), tmp_path / "a")
    stub = Stub()
    stub.keys[name] = value
    found = sign(milestones, stub, tmp_path / "b", reuse=tmp_path / "a")
    assert stub.given == ALL
    assert found.reused == []
    assert found.stale == dict.fromkeys(ALL, why)


def test_evidence_that_was_changed_is_not_used(milestones: Milestones, tmp_path: Path) -> None:
    sign(milestones, Stub(), tmp_path / "a")
    path = tmp_path / "a" / EVIDENCE / file_name(PHOTO)
    evidence = json.loads(path.read_text(encoding="utf-8"))
    evidence["values"][1][9] = 1e-9
    path.write_text(json.dumps(evidence), encoding="utf-8")
    stub = Stub()
    found = sign(milestones, stub, tmp_path / "b", reuse=tmp_path / "a")
    assert stub.given == [PHOTO]
    assert "was changed: its digest does not fit" in found.stale[PHOTO]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"item": 3}', "[" * 100_000, "1e999"])
def test_a_broken_file_is_run_again(content: str, milestones: Milestones, tmp_path: Path) -> None:
    sign(milestones, Stub(), tmp_path / "a")
    if content == "1e999":  # inside sound evidence
        content = (tmp_path / "a" / EVIDENCE / file_name(TEXT)).read_text(encoding="utf-8").replace("2.0", "x", 1)
        content = content.replace('"x"', "1e999")
        assert "1e999" in content
    (tmp_path / "a" / EVIDENCE / file_name(TEXT)).write_text(content, encoding="utf-8")
    stub = Stub()
    assert TEXT in sign(milestones, stub, tmp_path / "b", reuse=tmp_path / "a").stale
    assert stub.given == [TEXT]


def test_evidence_of_another_item_is_not_used(milestones: Milestones, tmp_path: Path) -> None:
    sign(milestones, Stub(), tmp_path / "a")
    folder = tmp_path / "a" / EVIDENCE
    (folder / file_name(PHOTO)).write_bytes((folder / file_name(TEXT)).read_bytes())
    found = sign(milestones, Stub(), tmp_path / "b", reuse=tmp_path / "a")
    assert "belongs into another file" in found.stale[PHOTO]


def test_what_ended_with_an_error_is_tried_again(milestones: Milestones, tmp_path: Path) -> None:
    sign(milestones, with_contents({PHOTO: OSError(28, "No space left")}), tmp_path / "a")
    stub = Stub()
    assert sign(milestones, stub, tmp_path / "b", reuse=tmp_path / "a").stale == {
        PHOTO: "it ended with an error and is run again"
    }
    assert stub.given == [PHOTO]


def test_a_run_that_was_killed_goes_on(milestones: Milestones, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sign(milestones, with_contents({"relations": _killed}), tmp_path / "a")
    stub = Stub()
    found = sign(milestones, stub, tmp_path / "a", reuse=tmp_path / "a")  # into the same folder
    assert found.reused == [TEXT, PHOTO]
    assert stub.given == ["relations", "mistakes:1"]


def _killed() -> dict[str, Any]:
    raise KeyboardInterrupt


def test_a_folder_without_evidence_is_no_earlier_sign_off(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="no folder 'evidence'"):
        read_earlier(tmp_path)


def test_the_digest_of_the_code_covers_code_and_data(tmp_path: Path) -> None:
    for room in ("parity", "port", "reference"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("x = 1\n", encoding="utf-8")
    seen = {code_digest(tmp_path)}
    for name, text in (("port/a.py", "x = 2\n"), ("reference/data.json", "{}"), ("parity/new.py", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        seen.add(code_digest(tmp_path))
    (tmp_path / "port/a.py").rename(tmp_path / "port/b.py")
    seen.add(code_digest(tmp_path))
    assert len(seen) == 5
    (tmp_path / "port/__pycache__").mkdir()
    (tmp_path / "port/__pycache__/a.pyc").write_bytes(b"x")
    (tmp_path / "port/README.md").write_text("words", encoding="utf-8")
    assert code_digest(tmp_path) in seen


def test_uncommitted_changes_are_named(tmp_path: Path) -> None:
    assert checkout(tmp_path).sentence == "commit unknown: this is not a git checkout"
    (tmp_path / "port").mkdir()
    (tmp_path / "port/a.py").write_text("x = 1\n", encoding="utf-8")
    settings = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *settings, *command], check=True)
    clean = checkout(tmp_path)
    assert clean.clean is True
    assert clean.sentence.endswith(", clean")
    (tmp_path / "report.json").write_text("{}", encoding="utf-8")  # a report is no change of the code
    assert checkout(tmp_path) == clean
    (tmp_path / "port/a.py").write_text("x = 2\n", encoding="utf-8")
    (tmp_path / "port/b.py").write_text("y = 1\n", encoding="utf-8")
    dirty = checkout(tmp_path)
    assert dirty.clean is False
    assert dirty.changes == (" M port/a.py", "?? port/b.py")
    assert dirty.sentence == f"commit {clean.commit}, with 2 uncommitted changes"
    # A folder inside a checkout of something else has no commit of its own.
    assert checkout(tmp_path / "port").commit is None
