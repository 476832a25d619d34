"""A small milestones file, evidence without a model, and a source that gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.compare import Finding, Isolated
from parity.core.trace import Entry, SeamKey
from parity.milestones.collect import Collected, Earlier, collect
from parity.milestones.keys import Checkout
from parity.milestones.plan import Item, Milestones, read_milestones
from parity.milestones.records import evidence
from parity.milestones.records.evidence import Content
from parity.milestones.records.record import Surroundings, make_record, verdicts

TODAY = date(2027, 1, 10)
PLAN = """
schema_version = "1.0"
[subject]
engine = "port"
evidence = "run"

[[phase]]
number = 1
title = "first"
cases = [{ dtypes = ["float32"], names = ["text", "photo"] }]
checks = [{ name = "relations", examples = 2 }]
mistakes = { mutants = ["final-norm-skipped", "patch-kernel-channels-last"] }

[[phase]]
number = 2
title = "second"
cases = [{ dtypes = ["float32"], names = ["text"] }]
"""
WAIVER = """
[[waiver]]
phase = 1
item = "case:photo:float32"
reason = "the resize is another one"
link = "https://example.org/1"
expires = 2027-01-31
"""


def plan(folder: Path, text: str = PLAN) -> Milestones:
    path = folder / "milestones.toml"
    path.write_text(text, encoding="utf-8")
    return read_milestones(path)


FLOOR = (4e-7 - float(np.finfo(np.float32).eps)) / 6  # of a gate of 4e-7


def finding(seam: str, *, figure: float = 1e-7, gate: float = 4e-7, alone: float = 1e-8) -> Finding:
    """A value whose status follows from its figures, with a gate of 1e-7 for the part alone."""
    ok, ok_alone = figure <= gate, alone <= 1e-7
    return Finding(
        Entry(SeamKey(seam, 0), "prefill", "text", "float", (), ""),
        "ok" if ok and ok_alone else "diverged",
        rows=5,
        rows_failed=0 if ok else 1,
        worst_row="token 3",
        figure=figure,
        gate=gate,
        floor=FLOOR,
        floor_runs=(FLOOR, FLOOR / 2, FLOOR * 2),
        ratio=figure / gate,
        isolated=Isolated("ok" if ok_alone else "diverged", alone, 1e-7, alone / 1e-7, None),
    )


def case_content(*, figure: float = 1e-7, alone: float = 1e-8, blind: tuple[str, ...] = ()) -> Content:
    findings = [finding("text.embed_tokens"), finding("text.norm", figure=figure, alone=alone), finding("logits")]
    return evidence.of_findings(findings, error=None, blind_spots=blind, floor_runs=["eager", "sdpa"])


class Stub:
    """A source without a model. ``contents`` replaces the evidence of an item; ``key`` holds for all items."""

    milestones: Milestones

    def __init__(self, **contents: Content | Exception | Callable[[], Content]) -> None:
        self.contents: dict[str, Any] = contents
        self.keys: dict[str, Any] = {"code": "c" * 64, "dtype": "float32", "torch": "2.0"}
        self.given: list[str] = []

    def key(self, item: Item) -> dict[str, Any]:
        return {**self.keys, "definition": item.id}

    def order(self, _item: Item) -> str:
        return ""

    def checkpoints(self) -> Mapping[str, str]:
        return {"tiny": "a" * 64}

    def give(self, item: Item) -> Content:
        self.given.append(item.id)
        found = self.contents.get(item.id)
        if isinstance(found, Exception):
            raise found
        if callable(found):
            made: Content = found()
            return made
        if found is not None:
            given: Content = found
            return given
        if item.kind == "check":
            return evidence.of_tests([("rows-are-alone", "kept", 1e-14, 1e-10, "")])
        if item.kind == "mistakes":
            return evidence.of_mistakes(item.detail["mutants"])
        return case_content(blind=("patch-kernel-channels-last",) if item.name == "text" else ())


def with_contents(contents: Mapping[str, Any]) -> Stub:
    stub = Stub()
    stub.contents = dict(contents)
    return stub


def collected(milestones: Milestones, stub: Stub, earlier: Earlier | None = None) -> Collected:
    return collect(milestones.phases, stub, earlier or Earlier(), keep=lambda _name, _evidence: None)


def surroundings(
    stub: Stub,
    *,
    today: date = TODAY,
    created: str = "2027-01-10T00:00:00+00:00",
    code: str = "c" * 64,
    versions: Mapping[str, str] | None = None,
    checkpoints: Mapping[str, str] | None = None,
    clean: bool = False,
) -> Surroundings:
    """What a record says beside its evidence. Its code digest is no real one."""
    environment = {
        "created": created,
        "command": f"parity signoff {created}",
        "seed": 0,
        "threads": 1,
        "python": "3.11.7",
        "platform": "Linux",
        "machine": "x86_64",
        "cpu": "a cpu",
        "packages": {"torch": "2.0"},
    }
    state = Checkout("f" * 40, clean, () if clean else (" M port/text.py",))
    return Surroundings(
        state, code, checkpoints or stub.checkpoints(), versions or {"torch": "2.0"}, environment, 1.5, today
    )  # fmt: skip


def record(
    milestones: Milestones,
    stub: Stub | None = None,
    *,
    today: date = TODAY,
    created: str = "2027-01-10T00:00:00+00:00",
    clean: bool = False,
) -> dict[str, Any]:
    """A whole record."""
    stub = stub or Stub()
    found = collected(milestones, stub)
    judged = verdicts(milestones, [], found.evidence, today=today)
    return make_record(milestones, judged, found, surroundings(stub, today=today, created=created, clean=clean))
