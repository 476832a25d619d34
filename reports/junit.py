"""A sign-off as JUnit XML, which most CI systems show: a suite for each milestone, a test for each required item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from reports.formatting import visible

#: The element for each verdict that is not PARITY. What was not run is an error: a skipped test would look harmless.
_ELEMENTS = {"DIVERGED": "failure", "INVALID": "error", "INCOMPLETE": "error"}


def junit(document: Mapping[str, Any]) -> bytes:
    """Return the XML of a document of the kind ``signoff``. A waived failure is a skipped test with its reason."""
    root = ElementTree.Element("testsuites", name=_text(f"sign-off of {document['subject']['engine']}"))
    for milestone in document["milestones"]:
        _suite(root, milestone)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ElementTree.Element, milestone: Mapping[str, Any]) -> None:
    title = _text(f"phase {milestone['phase']}: {milestone['title']}")
    suite = ElementTree.SubElement(root, "testsuite", name=title)
    why = {waiver["item"]: waiver for waiver in milestone["waivers"]}
    failures = 0
    for item in milestone["items"]:
        test = ElementTree.SubElement(
            suite, "testcase", classname=f"phase-{milestone['phase']}", name=_text(item["id"]),
            time=f"{item['seconds'] or 0:.3f}",
        )  # fmt: skip
        if item["waived"]:
            waiver = why[item["id"]]
            said = f"waived until {waiver['expires']}: {waiver['reason']} ({waiver['link']}); {item['reason']}"
            ElementTree.SubElement(test, "skipped", message=_text(said))
        elif item["verdict"] != "PARITY":
            element = ElementTree.SubElement(test, _ELEMENTS[item["verdict"]], type=item["verdict"])
            element.set("message", _text(item["reason"]))
            failures += 1
    if milestone["verdict"] != "SIGNED OFF" and not failures:
        # A needless waiver: every item passed, and the milestone did not.
        test = ElementTree.SubElement(suite, "testcase", classname=f"phase-{milestone['phase']}", name="milestone")
        ElementTree.SubElement(test, "error", type=milestone["verdict"], message=_text(milestone["reason"]))
    suite.set("tests", str(len(suite)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))


def _text(text: str) -> str:
    """Text that XML can hold: it has no control characters, no lone surrogates and no U+FFFE or U+FFFF."""
    shown = visible(text).encode("utf-8", "replace").decode("utf-8")
    return shown.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
