"""Matplotlib figures as inline SVG that follows the page's colours, light or dark.

Figures are built with the object-oriented API; pyplot, which keeps global state, is never imported.
Colours are drawn as placeholders and replaced by CSS variables, so that the page decides what they are.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from reports import digest
from reports import formatting as fmt

# Placeholder -> CSS variable. The placeholders are unlikely colours, not black or white.
_PAINT = {
    "#0a0101": "--fg",
    "#0a0102": "--muted",
    "#0a0103": "--line",
    "#0a0104": "--band",
    "#0a0105": "--dot",
    "#0a0106": "--bad",
    "#0a0107": "--gate",
    "#0a0108": "--floor",
    "#0a0109": "--warn",
    "#0a010a": "--ok",
    "#0a010b": "--panel",
}
INK = {variable[2:]: placeholder for placeholder, variable in _PAINT.items()}
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: selectable, and set in the page's own font
    "svg.hashsalt": "qwen3vl-parity",  # the same document gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.linewidth": 0.8,
    "path.simplify": False,
}
_LAYER = re.compile(r"\.(blocks|layers)\.(\d+)\b")
_LANES = ("exact gate", "error is 0", "no figure")


def seam_plot(document: Mapping[str, Any]) -> str | None:
    """Error along the seams, in order; None when there are no findings to draw."""
    findings = document["findings"]
    if not findings:
        return None
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(11.6, 4.7))
        main = figure.add_axes((0.062, 0.275, 0.928, 0.625))
        lanes = figure.add_axes((0.062, 0.075, 0.928, 0.17), sharex=main)
        for axes in (main, lanes):
            bare(axes)
        _bands(main, lanes, document=document)
        _figures(main, findings=findings)
        _lanes(lanes, findings=findings)
        first = document["verdict"]["first_divergence"]
        if first is not None:
            _mark_first(main, lanes, finding=findings[first], count=len(findings))
        main.set_xlim(-0.5, len(findings) - 0.5)
        main.tick_params(axis="x", bottom=False, labelbottom=False)
        _layer_ticks(lanes, findings=findings)
        main.set_ylabel("relative error, worst row", color=INK["fg"])
        return svg(figure, prefix="seams-", titles=[_title(finding) for finding in findings], target="f")


def case_plot(document: Mapping[str, Any]) -> str | None:
    """The worst ratio of every case against its gate; None when no case has one."""
    cases = document["cases"]
    if not any(case["worst"] and case["worst"]["ratio"] is not None for case in cases):
        return None
    with mpl.rc_context(SETTINGS):
        height = 0.75 + 0.215 * len(cases)
        figure = Figure(figsize=(11.6, height))
        axes = figure.add_axes((0.25, 0.5 / height, 0.70, 1 - 0.75 / height))
        bare(axes)
        ratios = [case["worst"]["ratio"] if case["worst"] else None for case in cases]
        known = [value for value in ratios if value]
        low = 10.0 ** math.floor(math.log10(min([0.1, *known]) * 0.8))
        high = 10.0 ** math.ceil(math.log10(max([2.0, *known]) * 2))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(len(cases) - 0.4, -0.6)
        for number, phase in enumerate(_runs([case["phase"] for case in cases])):
            if number % 2 == 0:
                axes.axhspan(phase[0] - 0.5, phase[1] - 0.5, color=INK["band"], linewidth=0, zorder=0)
        axes.axvline(1.0, color=INK["gate"], linewidth=1.4, zorder=2)
        axes.annotate(
            "gate", (1.0, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", color=INK["gate"], fontsize=9,
        )  # fmt: skip
        for place, (case, value) in enumerate(zip(cases, ratios, strict=True)):
            colour = INK[{"PARITY": "dot", "DIVERGED": "bad"}.get(case["verdict"], "warn")]
            if value is None:
                axes.text(low * 1.15, place, "no figure", va="center", color=INK["muted"], fontsize=9)
                continue
            at = max(value, low)
            axes.plot([low, at], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.annotate(
                fmt.ratio(value), (at, place), xytext=(6, -0.5), textcoords="offset points", va="center",
                color=INK["fg"], fontsize=9,
                bbox={"facecolor": INK["panel"], "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip
        drawn = [place for place, value in enumerate(ratios) if value is not None]
        _dots(
            axes,
            places=drawn,
            heights=drawn,
            across=[max(ratios[place] or 0.0, low) for place in drawn],
            colours=[INK[{"PARITY": "dot", "DIVERGED": "bad"}.get(cases[place]["verdict"], "warn")] for place in drawn],
        )
        axes.set_yticks(range(len(cases)), [plain_label(case["name"], limit=38) for case in cases])
        axes.tick_params(axis="y", length=0, labelcolor=INK["fg"])
        axes.xaxis.set_major_formatter(lambda value, _: fmt.ratio(float(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("worst figure / gate (log)", color=INK["fg"])
        titles = [
            f"{case['name']}: {case['verdict']}, worst {fmt.ratio(value)}"
            for case, value in zip(cases, ratios, strict=True)
        ]
        return svg(figure, prefix="cases-", titles=titles, target="c")


def _figures(axes: Axes, *, findings: Sequence[Mapping[str, Any]]) -> None:
    floats = [finding for finding in findings if finding["gate_kind"] == "float"]
    axes.set_yscale("log")
    drawn = [finding for finding in floats if finding["figure"]]
    gates = _series(floats, field="gate", count=len(findings))
    floors = _series(floats, field="floor", count=len(findings))
    places = np.arange(len(findings))
    values = [finding["figure"] for finding in drawn]
    shown = [*values, *gates[gates > 0], *floors[floors > 0]]
    if shown:
        low, high = math.log10(min(shown)), math.log10(max(shown))
        # Room at the top for the label of the first divergence.
        axes.set_ylim(10 ** (low - 0.06 * (high - low) - 0.1), 10 ** (high + 0.15 * (high - low) + 0.1))
    else:
        axes.set_ylim(1e-8, 1)
        axes.text(0.5, 0.5, "no seam has a relative error", transform=axes.transAxes, ha="center", color=INK["muted"])
    axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=INK["line"], linewidth=0.6)
    axes.plot(places, floors, color=INK["floor"], linewidth=0.9, label="floor", zorder=2)
    axes.step(places, gates, where="mid", color=INK["gate"], linewidth=1.3, label="gate", zorder=3)
    _dots(
        axes,
        places=[finding["index"] for finding in drawn],
        heights=values,
        colours=[INK["dot"] if finding["status"] == "ok" else INK["bad"] for finding in drawn],
    )


def _lanes(axes: Axes, *, findings: Sequence[Mapping[str, Any]]) -> None:
    """Three lanes for what a log axis cannot hold: exact gates, errors of 0, and seams without a figure."""
    axes.set_ylim(len(_LANES) - 0.5, -0.5)
    axes.set_yticks(range(len(_LANES)), _LANES)
    axes.tick_params(axis="y", length=0, labelcolor=INK["muted"], labelsize=9)
    for height in (0.5, 1.5):
        axes.axhline(height, color=INK["line"], linewidth=0.6)
    marks: dict[tuple[int, str, str], list[int]] = {}
    for finding in findings:
        ok, lane = finding["status"] == "ok", 2
        if finding["gate_kind"] != "float" and finding["status"] in ("ok", "diverged"):
            lane = 0
        elif finding["figure"] == 0 and finding["status"] in ("ok", "diverged"):
            lane = 1
        elif finding["figure"] is not None:
            continue
        colour = "ok" if ok else "warn" if finding["status"] in ("not_compared", "unexpected") else "bad"
        if lane == 1 and ok:
            colour = "dot"
        # The mark differs too: a bar where all is well, a cross where it is not.
        marks.setdefault((lane, colour, "|" if ok else "x"), []).append(finding["index"])
    for (lane, colour, mark), places in marks.items():
        large = 7 if mark == "x" else 8
        axes.plot(places, [lane] * len(places), mark, color=INK[colour], markersize=large, markeredgewidth=1.5)


def _dots(
    axes: Axes,
    *,
    places: Sequence[int],
    heights: Sequence[float],
    colours: Sequence[str],
    across: Sequence[float] | None = None,
) -> None:
    """Dots that link to the table: '#N' becomes the row's anchor, with a title to hover over."""
    dots = axes.scatter(
        places if across is None else across,
        heights,
        s=[26 if colour == INK["bad"] else 13 for colour in colours],
        c=list(colours),
        linewidths=0,
        zorder=4,
    )
    dots.set_urls([f"#{place}" for place in places])


def _mark_first(main: Axes, lanes: Axes, *, finding: Mapping[str, Any], count: int) -> None:
    place = finding["index"]
    for axes in (main, lanes):
        axes.axvline(place, color=INK["bad"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    right = place < count / 2
    main.annotate(
        f"first divergence: {plain_label(finding['seam'], limit=60)}",
        (place, 0.955), xycoords=("data", "axes fraction"), xytext=(6 if right else -6, 0),
        textcoords="offset points", ha="left" if right else "right", va="center", fontsize=10, fontweight="bold",
        color=INK["bad"], bbox={"facecolor": INK["panel"], "edgecolor": "none", "pad": 1.5}, zorder=6,
    )  # fmt: skip


def _bands(main: Axes, lanes: Axes, *, document: Mapping[str, Any]) -> None:
    bands = digest.bands(document)
    count = len(document["findings"])
    for number, band in enumerate(bands):
        if number % 2 == 0:
            for axes in (main, lanes):
                axes.axvspan(band.start - 0.5, band.stop - 0.5, color=INK["band"], linewidth=0, zorder=0)
    taken: list[tuple[float, float]] = []
    # The widest bands get their labels first; a label is left out where it would run into another one.
    for band in sorted(bands, key=lambda band: band.start - band.stop):
        half = 0.0036 * (len(band.label) + 1)  # of the axes' width, at some 0.0072 a letter
        # At the ends a label may stand out into the margin.
        middle = min(max((band.start + band.stop) / 2 / count, half - 0.04), 1.005 - half)
        if any(middle - half < end and middle + half > start for start, end in taken):
            continue
        taken.append((middle - half, middle + half))
        main.annotate(
            plain_label(band.label, limit=40), (middle, 1.0), xycoords="axes fraction", xytext=(0, 5),
            textcoords="offset points", ha="center", color=INK["fg"], fontsize=10,
        )  # fmt: skip


def _layer_ticks(axes: Axes, *, findings: Sequence[Mapping[str, Any]]) -> None:
    """A tick where a block or layer begins, labelled where there is room."""
    places, labels, last, label_at = [], [], None, -math.inf
    for finding in findings:
        match = _LAYER.search(finding["seam"])
        now = (match[1], match[2], finding["step"], finding["group"]) if match else None
        if match and now != last:
            places.append(finding["index"])
            roomy = finding["index"] - label_at >= 0.026 * len(findings)
            labels.append(f"{'B' if match[1] == 'blocks' else 'L'}{match[2]}" if roomy else "")
            label_at = finding["index"] if roomy else label_at
        last = now
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", length=3, color=INK["line"], labelcolor=INK["muted"], labelsize=8.5)


def _series(floats: Sequence[Mapping[str, Any]], *, field: str, count: int) -> np.ndarray:
    values = np.full(count, np.nan)
    for finding in floats:
        # A log axis has no place for 0: the line breaks there, as it does where nothing was measured.
        values[finding["index"]] = finding[field] or np.nan
    return values


def bare(axes: Axes) -> None:
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK["line"])
    axes.tick_params(color=INK["line"], labelcolor=INK["muted"])


def _runs(values: Sequence[object]) -> list[tuple[int, int]]:
    starts = [place for place in range(len(values)) if place == 0 or values[place] != values[place - 1]]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))


def _title(finding: Mapping[str, Any]) -> str:
    return (
        f"{finding['seam']} ({finding['step']}): {fmt.number(finding['figure'])}, "
        f"gate {fmt.number(finding['gate'])}, {fmt.ratio(finding['ratio'])}, {fmt.words(finding['status'])}"
    )


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """No warning inside the block about glyphs that matplotlib's font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def plain_label(text: str, *, limit: int) -> str:
    """Text for a label in a figure: on one line, shortened, and without mathematics."""
    text = fmt.visible(text).replace("\n", " ")
    text = text if len(text) <= limit else text[: limit - 1] + "\u2026"
    # Dollar signs would start matplotlib's own mathematics.
    return text.replace("$", r"\$")


def svg(figure: Figure, *, prefix: str, titles: Iterable[str], target: str) -> str:
    """The figure as an element to put inside a page: no header, no ids of its own, no fixed colours."""
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # Text stays text, so a glyph that matplotlib's font lacks is drawn with the reader's fonts.
    with missing_glyphs_allowed():
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    # Ids of one page must differ, whatever figures it holds.
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = text.replace("url(#", f"url(#{prefix}")
    named = list(titles)

    def anchor(match: re.Match[str]) -> str:
        place = int(match[1])
        return f'<a href="#{target}-{place}" tabindex="-1"><title>{escape(fmt.visible(named[place]))}</title>'

    text = re.sub(r'<a href="#(\d+)"[^>]*>', anchor, text)
    text = re.sub(r'<use href="#', f'<use href="#{prefix}', text)
    for placeholder, variable in _PAINT.items():
        text = text.replace(placeholder, f"var({variable})")
    return text.strip()
