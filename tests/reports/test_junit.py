"""A sign-off as JUnit XML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from reports.junit import junit

Document = dict[str, Any]


@pytest.fixture
def signoff(document_of: Callable[[str], Document]) -> Document:
    return document_of("signoff")


def parsed(document: Document) -> ElementTree.Element:
    return ElementTree.fromstring(junit(document))


def test_every_required_item_is_a_test(signoff: Document) -> None:
    root = parsed(signoff)
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "1", "skipped": "1"
    }  # fmt: skip
    found = {test.get("name"): [child.tag for child in test] for test in root.iter("testcase")}
    assert found == {
        "case:text:float32": [],
        "case:photo:float32": ["skipped"],
        "kill-matrix:a+2-more": ["failure"],
        "case:tied:float32": [],
        "mistakes:3": ["error"],
    }
    skipped = root.find("testsuite/testcase/skipped")
    assert skipped is not None
    assert "waived until 2027-01-31: another resize" in (skipped.get("message") or "")


def test_a_needless_waiver_is_an_error(signoff: Document) -> None:
    first = signoff["milestones"][0]
    first["items"][1] |= {"verdict": "PARITY", "waived": False}
    first |= {"verdict": "INVALID", "exit_code": 2, "reason": "its waiver is no longer needed"}
    suite = parsed(signoff)[0]
    assert suite.get("errors") == "1"
    assert [test.get("name") for test in suite] == ["case:text:float32", "case:photo:float32", "milestone"]


def test_hostile_text_stays_text(signoff: Document) -> None:
    hostile = "\x1b[31m\x00</testcase><!--\x0b\ufffe]]>\ud800"
    signoff["milestones"][1]["items"][0]["reason"] = hostile
    signoff["milestones"][1]["title"] = hostile
    assert len(list(parsed(signoff).iter("testcase"))) == 5
