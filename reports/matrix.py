"""The kill matrix as a picture: a row for each mutant, a column for each case."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports import formatting as fmt
from reports.plots import missing_glyphs_allowed, plain_label

# What a cell can be, with its colour. The colours differ in brightness too, so that they can be told apart in grey.
CELLS: tuple[tuple[str, str], ...] = (
    ("caught at the planted seam", "#1b7837"),
    ("caught elsewhere", "#f0a830"),
    ("survived", "#b2182b"),
    ("nothing to see in this case", "#e4e8ec"),
    ("not applicable", "#ffffff"),
)
_AT_SEAM, _ELSEWHERE, _SURVIVED, _NOTHING, _NOT_APPLICABLE = range(len(CELLS))
#: States of an outcome in which the mutant was caught.
CAUGHT = ("at seam", "elsewhere")


def cells(document: Mapping[str, Any]) -> np.ndarray:
    """(mutants, cases) indices into CELLS."""
    names = [case["name"] for case in document["cases"]]
    table = [[_cell(mutant["outcomes"][name]) for name in names] for mutant in document["mutants"]]
    return np.array(table, dtype=np.int64).reshape(len(table), len(names))


def _cell(outcome: Mapping[str, Any]) -> int:
    if outcome["state"] == "survived":
        return _SURVIVED if outcome["expected"] else _NOTHING
    return {"at seam": _AT_SEAM, "elsewhere": _ELSEWHERE, "not applicable": _NOT_APPLICABLE}[outcome["state"]]


def picture(document: Mapping[str, Any]) -> bytes:
    """The matrix as a PNG: mutants by component, real bugs in bold."""
    mutants, cases = document["mutants"], document["cases"]
    values = cells(document)
    with mpl.rc_context({"font.family": "sans-serif"}):
        columns = 0.55 * max(1, len(cases))
        height, width = 0.15 * len(mutants) + 2.2, 4.6 + columns
        figure = Figure(figsize=(width, height), dpi=110)
        axes = figure.add_axes((2.9 / width, 0.75 / height, columns / width, 1 - 2.2 / height))
        colours = ListedColormap([colour for _, colour in CELLS])
        if values.size:
            axes.imshow(
                values, cmap=colours, norm=BoundaryNorm(np.arange(len(CELLS) + 1) - 0.5, len(CELLS)), aspect="auto"
            )
        _label(axes, mutants, cases)
        _components(axes, mutants)
        patches = [Patch(facecolor=colour, edgecolor="#888888", label=name) for name, colour in CELLS]
        figure.legend(handles=patches, loc="lower left", ncols=3, fontsize=7, frameon=False)
        figure.suptitle(_headline(document), x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=9)
        buffer = io.BytesIO()
        # A box stands for a glyph that the font lacks.
        with missing_glyphs_allowed():
            figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _label(axes: Axes, mutants: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]) -> None:
    names = [plain_label(case["name"], limit=40) for case in cases]
    axes.set_xticks(range(len(cases)), names, rotation=40, ha="left", fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(mutants)), [plain_label(mutant["id"], limit=48) for mutant in mutants], fontsize=6.5)
    for label, mutant in zip(axes.get_yticklabels(), mutants, strict=True):
        label.set_fontweight("bold" if mutant["real"] else "normal")
    axes.set_xticks(np.arange(len(cases) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(mutants) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)


def _components(axes: Axes, mutants: Sequence[Mapping[str, Any]]) -> None:
    """The name of each run of mutants of one component, on the right, and a line between two."""
    start = 0
    for name, members in groupby(mutant["component"] for mutant in mutants):
        stop = start + len(list(members))
        axes.text(
            1.02, (start + stop - 1) / 2, plain_label(name, limit=24), transform=axes.get_yaxis_transform(),
            va="center", fontsize=6.5, color="#333333",
        )  # fmt: skip
        axes.axhline(stop - 0.5, color="#555555", linewidth=0.5)
        start = stop


def _headline(document: Mapping[str, Any]) -> str:
    totals = document["totals"]
    return "\n".join(
        (
            f"{fmt.plural(totals['mutants'], 'mutant')} ({fmt.plural(totals['real'], 'real bug')}, in bold), "
            f"{plain_label(document['dtype'], limit=20)}",
            f"{totals['caught']} caught, {totals['survived']} survived, {totals['not_exposed']} not exposed, "
            f"{totals['invisible']} invisible",
            f"kill rate {fmt.percent(totals['kill_rate'])}, "
            f"at the planted seam {fmt.percent(totals['localisation_rate'])}",
        )
    )
