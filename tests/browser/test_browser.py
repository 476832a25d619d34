"""The pages in a real browser: no errors, no sideways scrolling, links, filters, keyboard, print.

Marked ``browser``: without Chromium these tests fail in ``nox -s pages``. In the default tests they are skipped then,
with a line that says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.write import write_report
from tests.browser.chrome import Chrome, chrome, found
from tests.reports import kind_samples
from tests.reports.report_samples import run_document, suite_document, write_pictures

pytestmark = pytest.mark.browser
WIDTHS = (390, 1400)
BROWSER = found()


def _with_pictures(sample: dict[str, Any]) -> dict[str, Any]:
    of = run_document()["pictures"]
    return sample | {"pictures": [{"item": "case:text:float32", **picture} for picture in of * 3]}


PAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "run": run_document,
    "diverged": lambda: run_document(diverged=True),
    "suite": lambda: suite_document(),
    "signoff": lambda: _with_pictures(kind_samples.signoff_document()),
    **{name: make for name, make in kind_samples.SIMPLE.items() if name != "signoff"},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, document in PAGES.items():
        folder = tmp_path_factory.mktemp(name)
        write_pictures(folder)
        made[name] = write_report(document(), folder, formats=["html"])["html"]
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if BROWSER is None:
        if os.environ.get("BROWSER_REQUIRED"):
            pytest.fail("no Chromium was found; install it, or name it in CHROMIUM")
        pytest.skip("NOT RUN: no Chromium was found; install it, or name it in CHROMIUM")
    with chrome(BROWSER, tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_errors_and_no_sideways_scrolling(
    name: str, width: int, browser: Chrome, pages: dict[str, Path]
) -> None:
    browser.open(pages[name], width=width, dark=width == 390)
    assert browser.run("document.documentElement.scrollWidth") <= width
    # What scrolls inside a frame of its own, such as a table, may be wider.
    wide = """[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, svg, pre, .visually-hidden")
        && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    assert browser.run(wide) == []
    for fold in ("details:not([open]) > summary",):
        while browser.run(f"document.querySelectorAll({fold!r}).length"):
            browser.run(f"document.querySelector({fold!r}).click()")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.problems == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere_that_can_be_seen(name: str, browser: Chrome, pages: dict[str, Path]) -> None:
    browser.open(pages[name], width=1400)
    lost = browser.run(
        """(async () => {
            const lost = [];
            const every = [...document.querySelectorAll('a[href^="#"]')].map((a) => a.getAttribute("href"));
            const links = [...new Set(every)];
            for (const href of links.filter((_, index) => index % Math.ceil(links.length / 40) === 0)) {
                location.hash = href;
                await new Promise((done) => setTimeout(done, 5));
                const target = document.getElementById(href.slice(1));
                if (!target || !target.getClientRects().length) lost.push(href);
            }
            return lost;
        })()"""
    )
    assert lost == []
    assert browser.problems == []


def test_a_click_on_a_part_shows_its_seams(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.open(pages["signoff"], width=1400)
    shown = "[...document.querySelectorAll('.panel .part')].filter((p) => p.getClientRects().length).map((p) => p.id)"
    assert browser.run(shown) == ["part-overview"]
    browser.click('.drawing a[href="#part-layer-0"]')
    assert browser.run(shown) == ["part-layer-0"]
    assert "text.layers.0.mlp.out" in browser.run("document.getElementById('part-layer-0').innerText")
    assert browser.run("document.querySelector('.drawing a[aria-current]').getAttribute('href')") == "#part-layer-0"
    browser.click("#part-layer-0 .back a")
    assert browser.run(shown) == ["part-overview"]


def test_a_part_is_reached_and_opened_with_the_keyboard_alone(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.open(pages["diverged"], width=1400)
    where = "document.activeElement.getAttribute('href')"
    for _ in range(40):
        browser.press("Tab")
        if str(browser.run(where)).startswith("#part-tap"):
            break
    target = browser.run(where)
    assert target.startswith("#part-tap")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == target[1:]
    assert browser.run(f"document.querySelector('{target}').getClientRects().length") > 0


def test_colour_is_not_the_only_sign(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.open(pages["signoff"], width=1400)
    labels = browser.run("[...document.querySelectorAll('.drawing a')].map((a) => a.getAttribute('aria-label'))")
    assert any("A fault starts here" in label for label in labels)
    assert all(len(label) > 20 for label in labels)
    texts = browser.run("[...document.querySelectorAll('.drawing a')].map((a) => a.textContent)")
    assert all(any(mark in text for mark in "\u00d7\u2713\u2717\u2205?") for text in texts)


def test_texts_of_the_drawing_fit_into_their_boxes(browser: Chrome, pages: dict[str, Path]) -> None:
    for name in ("run", "diverged", "signoff"):
        browser.open(pages[name], width=1400)
        crossing = browser.run(
            """[...document.querySelectorAll(".drawing .box")].map((box) => {
                const [title, figure] = [...box.querySelectorAll("text")].map((text) => text.getBBox());
                const rect = box.querySelector("rect").getBBox();
                if (!figure) return null;
                const over = title.x + title.width > figure.x && figure.width > 0;
                return over || figure.x + figure.width > rect.x + rect.width ? box.textContent.trim() : null;
            }).filter(Boolean)"""
        )
        assert crossing == [], name


def test_the_filter_of_the_findings_works(browser: Chrome, pages: dict[str, Path]) -> None:
    browser.open(pages["diverged"], width=390)
    visible = "[...document.querySelectorAll('#findings-table tbody tr')].filter((r) => !r.hidden).length"
    every = browser.run(visible)
    browser.run(
        "(() => { const f = document.querySelector('form[data-for=findings-table]'); f.elements.status.value = '!ok';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    assert 0 < browser.run(visible) < every
    # A link to a row that is filtered out and folded away shows it.
    hidden = browser.run("[...document.querySelectorAll('#findings-table tbody tr')].find((r) => r.hidden).id")
    browser.run(f"location.hash = '#{hidden}'")
    browser.run("new Promise((done) => setTimeout(done, 30))")
    assert browser.run(f"document.getElementById('{hidden}').getClientRects().length") > 0
    assert browser.run(visible) == every


def test_a_page_prints_without_what_cannot_be_printed(browser: Chrome, pages: dict[str, Path]) -> None:
    for name in ("diverged", "signoff"):
        browser.open(pages[name], width=1400, media="print")
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not browser.run(
            "[...document.querySelectorAll('.filters, .opacity')].some((e) => e.getClientRects().length)"
        )
        pdf = browser.pdf()
        assert pdf.startswith(b"%PDF")
        pages_printed = pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ")
        assert 0 < pages_printed < 20, f"{name} prints {pages_printed} pages"
        assert browser.problems == []


def test_a_page_that_is_wrong_is_noticed(browser: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<img src=https://example.org/a.png><div style='width:900px'>wide</div><script>nothing.at.all</script>",
        encoding="utf-8",
    )
    browser.open(page, width=390)
    assert browser.run("document.documentElement.scrollWidth") > 390
    assert any("nothing is not defined" in problem for problem in browser.problems)
    assert any("example.org" in problem for problem in browser.problems)
