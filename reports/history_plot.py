"""Ratios over runs as a picture: a line for each series, those whose margin shrank in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from reports import formatting as fmt
from reports.plots import INK, SETTINGS, bare, plain_label, svg

_NAMED, _DRAWN, _LABELS = 6, 60, 24


def history_plot(document: Mapping[str, Any]) -> str:
    """Draw the first series of the document, which are those that matter. The rest is in the table."""
    runs, series = document["runs"], document["series"][:_DRAWN]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(11.6, 4.4))
        axes = figure.add_axes((0.062, 0.24 if len(runs) > 6 else 0.1, 0.66, 0.70 if len(runs) > 6 else 0.84))
        bare(axes)
        axes.grid(axis="y", color=INK["line"], linewidth=0.6)
        axes.axhline(1.0, color=INK["gate"], linewidth=1.4)
        for place, line in reversed(list(enumerate(series))):
            lost = line["shrank"] is not None
            named = place < _NAMED
            colour = INK["bad"] if lost else INK["dot" if named else "floor"]
            points = [(at, ratio) for at, ratio in enumerate(line["ratios"]) if ratio is not None]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8 if lost or named else 0.7,
                      alpha=1 if named else 0.45, marker="o" if named else None, markersize=3.5)  # fmt: skip
            if lost and named:
                at = line["shrank"]
                axes.plot([at], [line["ratios"][at]], "o", color=INK["bad"], markersize=8, fillstyle="none")
        highest = max((ratio for line in series for ratio in line["ratios"] if ratio is not None), default=1.0)
        if highest > 3:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, max(1.1, highest * 1.05))
        axes.set_xlim(-0.25, max(len(runs) - 0.75, 0.25))
        step = -(-len(runs) // _LABELS)
        axes.set_xticks(
            range(0, len(runs), step), [plain_label(run["folder"], limit=18) for run in runs[::step]],
            rotation=30 if len(runs) > 6 else 0, ha="right" if len(runs) > 6 else "center",
        )  # fmt: skip
        axes.set_ylabel("worst figure / gate", color=INK["fg"])
        axes.yaxis.set_major_formatter(lambda value, _: fmt.ratio(float(value)))
        for place, line in enumerate(series[:_NAMED]):
            last = next(ratio for ratio in reversed(line["ratios"]) if ratio is not None)
            axes.annotate(
                f"{plain_label(line['name'].removeprefix('seam:'), limit=34)}  {fmt.ratio(last)}",
                (1.02, 0.95 - 0.09 * place),
                xycoords="axes fraction",
                color=INK["bad" if line["shrank"] is not None else "fg"],
                fontsize=9,
            )
        return svg(figure, prefix="history-", titles=[], target="s")
