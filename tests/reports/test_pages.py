"""The Markdown and HTML pages: complete, self-contained, well-formed, and safe against hostile text."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports import document as documents
from reports import formatting as fmt
from reports.markdown import MOST_FAILING
from reports.plots import case_plot, seam_plot
from reports.templating import markdown_code, markdown_text
from tests.reports.page_checks import Page, html, markdown
from tests.reports.report_samples import run_document, write_pictures

Document = dict[str, Any]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \"' | `code` ``` $x$ $y$ {{ 7*7 }} \x00\x1b[31m"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from tests.reports.report_samples import suite_document

    folder = tmp_path_factory.mktemp("pages")
    write_pictures(folder)
    return {
        "parity": html(run_document(), pictures=folder),
        "diverged": html(run_document(diverged=True), pictures=folder),
        "suite": html(suite_document(links=True), pictures=folder),
    }


@pytest.mark.parametrize("name", ["parity", "diverged", "suite"])
def test_a_page_is_well_formed_and_asks_for_nothing_outside(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert len(page.ids) == len(set(page.ids))
    assert "http://" not in pages[name]
    assert "https://" not in pages[name]
    for tag, attrs in page.tags:
        for attribute in ("src", "href", "xlink:href", "srcset", "action", "data"):
            target = attrs.get(attribute)
            if target:
                assert target.startswith(("data:image/", "#", "cases/")), (tag, target)
                assert not target.startswith("#") or target[1:] in page.ids, f"{target} leads nowhere"
    assert "@import" not in pages[name]
    assert not re.search(r"url\((?!#)", pages[name])


@pytest.mark.parametrize("name", ["parity", "diverged", "suite"])
def test_a_page_is_accessible(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    labelled = [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert labelled
    assert set(labelled) <= set(page.ids)


def test_the_one_script_is_allowed_by_its_hash_and_no_other(pages: dict[str, str]) -> None:
    page = pages["diverged"]
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 1
    wanted = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(attrs["content"] for attrs in Page(page).all("meta") if "http-equiv" in attrs)
    assert policy is not None
    assert f"script-src 'sha256-{wanted}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_environment_comes_right_after_the_banner(pages: dict[str, str]) -> None:
    for page in pages.values():
        headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
        assert headings[0] == "Environment"
        assert page.index("</header>") < page.index("Environment</h2>")


def test_the_pages_hold_every_figure(pages: dict[str, str]) -> None:
    for name in ("parity", "diverged"):
        sample = run_document(diverged=name == "diverged")
        rows = re.findall(r'<tr id="f-(\d+)".*?</tr>', pages[name], flags=re.DOTALL)
        assert [int(row) for row in rows] == list(range(len(sample["findings"])))
        for finding in sample["findings"]:
            row = pages[name][pages[name].index(f'<tr id="f-{finding["index"]}"') :].partition("</tr>")[0]
            assert finding["seam"] in row
            assert fmt.words(finding["status"]) in row
            for field in ("figure", "gate"):
                if finding[field] is not None:
                    assert fmt.number(finding[field]) in row
            assert fmt.ratio(finding["ratio"]) in row


def test_the_banner_says_where_it_first_goes_wrong(pages: dict[str, str]) -> None:
    banner = pages["diverged"].partition("</header>")[0]
    text = " ".join("".join(Page(banner[banner.index("<header") :] + "</header>").text).split())
    assert "DIVERGED" in text
    assert "It first goes wrong at text.layers.1.deepstack in prefill." in text
    assert "304 of 430 rows fail" in text
    assert "Over the gate: image" in text
    assert "within: text 0.4" in text
    assert "It first goes wrong" not in pages["parity"]


def test_the_plot_marks_the_first_divergence_and_links_its_dots(diverged: Document) -> None:
    plot = seam_plot(diverged)
    assert plot is not None
    first = diverged["verdict"]["first_divergence"]
    assert "first divergence: text.layers.1.deepstack" in plot
    assert f'<a href="#f-{first}" tabindex="-1"><title>text.layers.1.deepstack (prefill)' in plot
    drawn = [finding for finding in diverged["findings"] if finding["gate_kind"] == "float" and finding["figure"]]
    assert plot.count("<title>") == len(drawn)
    for label in ("inputs", "vision", "text layers", "decode 1", "decode 2", "exact gate"):
        assert f">{label}</text>" in plot
    assert not re.search("#0a01", plot), "a placeholder colour was left"
    assert plot == seam_plot(diverged), "the same document gives the same bytes"


def test_a_finding_without_anything_to_draw_is_no_obstacle(parity: Document, folder: Path) -> None:
    for finding in parity["findings"]:
        finding |= {"figure": None, "gate": None, "ratio": None, "floor": None, "by_kind": {}, "step": "prefill"}
    parity |= {"pictures": [], "logits": None, "performance": None}
    parity["case"] |= {"steps": ["prefill"], "rows": [], "generated": []}
    documents.validate(parity)
    assert "no seam has a relative error" in (seam_plot(parity) or "")
    Page(html(parity, pictures=folder))
    markdown(parity)
    parity["findings"] = parity["findings"][:1]
    Page(html(parity, pictures=folder))
    parity["findings"] = []
    parity["verdict"] |= {"value": "INVALID", "exit_code": 2, "reason": "no seam was compared"}
    documents.validate(parity)
    assert "nothing was compared" in html(parity, pictures=folder)
    assert "Nothing was compared." in markdown(parity)


@pytest.mark.parametrize("status", ["missing", "unexpected", "shape_mismatch", "nonfinite", "not_compared"])
def test_every_status_can_come_first(status: str, diverged: Document, folder: Path) -> None:
    first = diverged["findings"][diverged["verdict"]["first_divergence"]]
    first |= {"status": status, "figure": None, "ratio": None, "by_kind": {}, "subject_shape": [1, 2]}
    documents.validate(diverged)
    page = html(diverged, pictures=folder)
    assert fmt.words(status) in page
    assert f"{fmt.GLYPHS[status]} {fmt.words(status)}" in markdown(diverged)


def test_hostile_text_stays_text(diverged: Document, folder: Path) -> None:
    first = diverged["verdict"]["first_divergence"]
    diverged["case"] |= {"title": HOSTILE, "name": HOSTILE}
    diverged["case"]["rows"][0]["text"] = HOSTILE
    diverged["case"]["generated"][0]["text"] = HOSTILE
    diverged["verdict"]["reason"] = HOSTILE
    diverged["pictures"][0]["title"] = HOSTILE
    diverged["environment"] |= {"command": HOSTILE, "platform": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    diverged["performance"]["rows"][0]["what"] = HOSTILE
    diverged["findings"][first] |= {"seam": HOSTILE, "step": HOSTILE, "note": HOSTILE, "worst_row": HOSTILE}
    diverged["findings"][first]["by_kind"] = {HOSTILE: 3.0}
    page_text = html(diverged, pictures=folder)
    page = Page(page_text)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "\x00" not in page_text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page_text
    assert "{{ 7*7 }}" in page_text
    text = markdown(diverged)
    assert "\x00" not in text
    # In Markdown a tag may stand only inside code, where it is shown as it is.
    outside = re.sub(r"````text\n.*?\n````", "", text, flags=re.DOTALL)
    outside = re.sub(r"(````) .*? \1", "", outside)
    assert "<script" not in outside
    assert "<img" not in outside


def test_a_hostile_suite_stays_text(suite: Document, folder: Path) -> None:
    case = suite["cases"][0]
    case |= {"name": HOSTILE, "title": HOSTILE, "reason": HOSTILE, "report": 'cases/a"b<c/report.html'}
    case["worst"] |= {"seam": HOSTILE, "row": HOSTILE}
    suite["phases"][0] |= {"title": HOSTILE, "reason": HOSTILE}
    documents.validate(suite)
    page = Page(html(suite, pictures=folder))
    assert len(page.all("script")) == 1
    assert "cases/a%22b%3Cc/report.html" in [attrs.get("href") for attrs in page.all("a")]
    markdown(suite)


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_are_drawn_without_warnings(diverged: Document, suite: Document) -> None:
    name = "\u6f22\u5b57 $x$ \U0001f600"
    diverged["findings"][diverged["verdict"]["first_divergence"]]["seam"] = name
    suite["cases"][0]["name"] = name
    assert f">first divergence: {name}</text>" in (seam_plot(diverged) or "")
    assert f">{name}</text>" in (case_plot(suite) or "")


def test_the_suite_page_links_to_its_cases(pages: dict[str, str]) -> None:
    links = [attrs.get("href") for attrs in Page(pages["suite"]).all("a")]
    assert "cases/p2-batch-3-left/report.html" in links
    for text in ("2 cases diverged", "INCOMPLETE", "p3-odd-size", "text.layers.1.deepstack"):
        assert text in pages["suite"]


def test_a_suite_without_ratios_has_no_plot(suite: Document, folder: Path) -> None:
    for case in suite["cases"]:
        case["worst"] = None
    assert case_plot(suite) is None
    Page(html(suite, pictures=folder))
    suite["cases"] = []
    Page(html(suite, pictures=folder))
    markdown(suite)


def test_a_page_of_two_thousand_findings_stays_small(folder: Path) -> None:
    sample = run_document(diverged=True, decode_steps=31)
    assert len(sample["findings"]) > 2000
    page = html(sample, pictures=folder)
    assert len(page.encode()) < 6_000_000


def test_markdown_starts_with_the_verdict_and_lists_every_failure(diverged: Document) -> None:
    text = markdown(diverged)
    assert text.startswith(f"# {fmt.GLYPHS['DIVERGED']} DIVERGED: Two pictures")
    assert text.index("First divergence: `text.layers.1.deepstack`") < text.index("## Environment")
    for finding in diverged["findings"]:
        listed = f"| {finding['index']} | `{finding['seam']}` |" in text
        assert listed or finding["status"] == "ok"
    left = int(re.search(r"(\d+) more seams in the CSV file", text)[1])  # type: ignore[index]
    failing = sum(finding["status"] != "ok" for finding in diverged["findings"])
    assert left == len(diverged["findings"]) - failing - 20


def test_markdown_shows_the_twenty_nearest_by_ratio(parity: Document) -> None:
    text = markdown(parity)
    rows = [int(index) for index in re.findall(r"^\| (\d+) \| `", text, flags=re.MULTILINE)]
    ranked = sorted(parity["findings"], key=lambda finding: -(finding["ratio"] or 0))
    assert rows == [finding["index"] for finding in ranked[:20]]
    assert fmt.number(ranked[0]["figure"]) in text
    assert f"{len(parity['findings']) - 20} more seams in the CSV file" in text


def test_markdown_fits_a_job_summary_however_much_fails() -> None:
    sample = run_document(diverged=True, decode_steps=60)
    text = markdown(sample)
    assert len(text.encode()) < 1024 * 1024
    failing = sum(finding["status"] != "ok" for finding in sample["findings"])
    assert f"{failing - MOST_FAILING:,} more seams that are not ok" in text


def test_markdown_tables_have_one_width(
    diverged: Document, suite: Document, document_of: Callable[[str], Document]
) -> None:
    diverged["findings"][120]["note"] = "a | pipe and ``two|ticks``"
    diverged["findings"][121]["seam"] = "a|b`c"
    for sample in (diverged, suite, document_of("parity")):
        width = None
        for line in markdown(sample).splitlines():
            if not line.startswith("|"):
                width = None
                continue
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert width in (None, cells), line
            width = cells


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a|b", "`a\\|b`"), ("a`b", "`` a`b ``"), ("", "(empty)"), ("<b>", "`<b>`"), ("x\ny", "`x y`")],
)
def test_code_spans_cannot_be_closed_from_inside(text: str, expected: str) -> None:
    assert markdown_code(text) == expected


def test_paragraph_text_has_no_markup() -> None:
    assert markdown_text("a*b_c|<i>\n# d") == "a\\*b\\_c\\|&lt;i&gt; \\# d"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, fmt.DASH), (0, "0"), (0.0, "0"), (812, "812"), (12345, "12,345"), (3.14159e-7, "3.14e-7"), (4e-7, "4e-7"),
     (0.1, "0.1"), (0.10004, "0.100"), (0.33954, "0.340"), (4.0, "4"), (29707.4, "29,707"),
     (1.5e9, "1.5e9"), (-2.25e-5, "-2.25e-5")],
)  # fmt: skip
def test_numbers_are_short(value: float | None, expected: str) -> None:
    assert fmt.number(value) == expected


def test_rounding_never_moves_a_ratio_across_the_gate() -> None:
    assert fmt.ratio(0.9997) == f"0.9997{fmt.TIMES}"
    assert fmt.ratio(1.0003) == f"1.0003{fmt.TIMES}"
    assert fmt.ratio(1.0) == f"1{fmt.TIMES}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, fmt.DASH), (0.0, "0 s"), (3e-5, "30 \u00b5s"), (0.0061, "6.1 ms"), (2.5, "2.5 s"), (151.2, "2 min 31 s")],
)
def test_durations_have_a_unit_that_suits(value: float | None, expected: str) -> None:
    assert fmt.seconds(value) == expected


def test_sizes_are_binary() -> None:
    assert [fmt.size(value) for value in (None, 512, 2048, 412_000_000)] == [fmt.DASH, "512 B", "2 KiB", "393 MiB"]
