"""The figures of a measuring session: the roofline, and how cost grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from reports import formatting as fmt
from reports.plots import INK, SETTINGS, bare, plain_label, svg

_SIDES = (("port", "dot", "o"), ("reference", "muted", "s"))


def roofline(document: Mapping[str, Any]) -> str | None:
    """Operations a second over operations for each byte read: the roofs are the limits that were measured."""
    works = [work for work in document["works"] if work["counts"] and work["counts"]["bytes_read"]]
    if not works:
        return None
    limits = document["limits"]
    across = [work["counts"]["flops"] / work["counts"]["bytes_read"] for work in works]
    low, high = min([*across, 0.25]) / 2, max([*across, 100]) * 2
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(11.6, 4.6))
        axes = figure.add_axes((0.07, 0.13, 0.91, 0.83))
        _logarithmic(axes)
        corner = limits["product_gflops"] / limits["read_gbytes"]
        roof = [
            (low, low * limits["read_gbytes"]),
            (corner, limits["product_gflops"]),
            (high, limits["product_gflops"]),
        ]
        axes.plot(*zip(*roof, strict=True), color=INK["gate"], linewidth=1.4)
        for number, (work, at) in enumerate(zip(works, across, strict=True)):
            rates = {side: work["counts"]["flops"] / work[side] / 1e9 for side, _, _ in _SIDES}
            axes.plot([at, at], list(rates.values()), color=INK["line"], linewidth=1)
            for side, ink, marker in _SIDES:
                axes.plot([at], [rates[side]], marker, color=INK[ink], markersize=6, label=side if not number else None)
            axes.annotate(
                plain_label(work["name"], limit=24), (at, max(rates.values())), xytext=(0, 8),
                textcoords="offset points", ha="center", color=INK["fg"], fontsize=9,
            )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_xlabel("operations for each byte read", color=INK["fg"])
        axes.set_ylabel("10^9 operations a second", color=INK["fg"])
        _legend(axes)
        return svg(figure, prefix="roof-", titles=[], target="w")


def growth(document: Mapping[str, Any]) -> str | None:
    """Seconds over size, one panel for each curve: port, reference, and what the limits allow."""
    points = document["curves"]
    if not points:
        return None
    names = list(dict.fromkeys(point["curve"] for point in points))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(11.6, 3.1 * math.ceil(len(names) / 2)))
        for number, name in enumerate(names):
            axes = figure.add_subplot(math.ceil(len(names) / 2), 2, number + 1)
            _logarithmic(axes)
            own = [point for point in points if point["curve"] == name]
            at = [point["at"] for point in own]
            for side, ink, marker in _SIDES:
                axes.plot(at, [point[side] for point in own], f"{marker}-", color=INK[ink], markersize=4, label=side)
            axes.plot(at, [point["expected"] for point in own], "--", color=INK["gate"], label="limit of the machine")
            axes.set_title(plain_label(name, limit=40), color=INK["fg"], fontsize=10)
            axes.set_xticks(at, [fmt.number(value) for value in at])
            axes.set_xlabel("pixels" if name == "vision" else "rows" if "batch" in name else "tokens", color=INK["fg"])
            axes.set_ylabel("seconds", color=INK["fg"])
            if not number:
                _legend(axes)
        figure.tight_layout()
        return svg(figure, prefix="growth-", titles=[], target="c")


def _logarithmic(axes: Axes) -> None:
    bare(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, labelcolor=INK["fg"], fontsize=9)
