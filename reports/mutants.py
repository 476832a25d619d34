"""The kill matrix as files: JSON, CSV and a picture. Pure: a document in, files out, nothing judged.

The document's ``trials`` give the columns, its ``mutants`` the rows; every mutant has an outcome for each trial.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports.atomic import write_files
from reports.tables import csv_text

# What a cell can be, with its colour. The colours differ in brightness too, so that they read in grey.
CELLS: tuple[tuple[str, str], ...] = (
    ("killed at the planted seam", "#1b7837"),
    ("killed elsewhere", "#f0a830"),
    ("survived", "#b2182b"),
    ("nothing to see on this trial", "#e4e8ec"),
    ("not applicable", "#ffffff"),
)
_AT_SEAM, _ELSEWHERE, _SURVIVED, _NOTHING, _NOT_APPLICABLE = range(len(CELLS))
_COLUMNS = (
    "id",
    "title",
    "component",
    "source",
    "real",
    "seam",
    "step",
    "fate",
    "first_seam",
    "first_step",
    "localised",
)


def write_matrix(document: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write all files, or leave those that were there as they were; returns the path of each format."""
    paths = {name: Path(folder) / f"mutants.{name}" for name in ("json", "csv", "png")}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    made = {
        "json": text.encode("utf-8"),
        "csv": csv_text(frame(document)).encode("utf-8"),
        "png": picture(document),
    }
    write_files({paths[name]: made[name] for name in paths})
    return paths


def frame(document: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each mutant, and a column with the outcome's state for each trial."""
    rows = [
        {column: mutant[column] for column in _COLUMNS}
        | {"dtypes": " ".join(mutant["dtypes"])}
        | {trial["name"]: mutant["outcomes"][trial["name"]]["state"] for trial in document["trials"]}
        for mutant in document["mutants"]
    ]
    trials = [trial["name"] for trial in document["trials"]]
    return pd.DataFrame(rows, columns=pd.Index([*_COLUMNS, "dtypes", *trials]))


def cells(document: Mapping[str, Any]) -> np.ndarray:
    """(mutants, trials) indices into CELLS."""
    names = [trial["name"] for trial in document["trials"]]
    table = [[_cell(mutant["outcomes"][name]) for name in names] for mutant in document["mutants"]]
    return np.array(table, dtype=np.int64).reshape(len(table), len(names))


def _cell(outcome: Mapping[str, Any]) -> int:
    if outcome["state"] == "survived":
        return _SURVIVED if outcome["expected"] else _NOTHING
    return {"at seam": _AT_SEAM, "elsewhere": _ELSEWHERE, "not applicable": _NOT_APPLICABLE}[outcome["state"]]


def picture(document: Mapping[str, Any]) -> bytes:
    """The matrix as a PNG: mutants by component, real bugs in bold."""
    mutants, trials = document["mutants"], document["trials"]
    values = cells(document)
    with mpl.rc_context({"font.family": "sans-serif"}):
        height, width = 0.135 * max(len(mutants), 1) + 2.2, 6.2 + 0.62 * max(len(trials), 1)
        figure = Figure(figsize=(width, height), dpi=110)
        axes = figure.add_axes((4.6 / width, 0.75 / height, 0.55 * len(trials) / width, 1 - 2.2 / height))
        colours = ListedColormap([colour for _, colour in CELLS])
        if values.size:
            axes.imshow(
                values, cmap=colours, norm=BoundaryNorm(np.arange(len(CELLS) + 1) - 0.5, len(CELLS)), aspect="auto"
            )
        _label(axes, mutants, trials)
        _components(axes, mutants)
        patches = [Patch(facecolor=colour, edgecolor="#888888", label=name) for name, colour in CELLS]
        figure.legend(handles=patches, loc="lower left", ncols=3, fontsize=7, frameon=False)
        figure.suptitle(_headline(document), x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _label(axes: Axes, mutants: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]]) -> None:
    axes.set_xticks(range(len(trials)), [trial["name"] for trial in trials], rotation=40, ha="left", fontsize=7)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(mutants)), [mutant["id"] for mutant in mutants], fontsize=5.5)
    for label, mutant in zip(axes.get_yticklabels(), mutants, strict=True):
        label.set_fontweight("bold" if mutant["real"] else "normal")
    axes.set_xticks(np.arange(len(trials) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(mutants) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)


def _components(axes: Axes, mutants: Sequence[Mapping[str, Any]]) -> None:
    """The name of each run of mutants of one component, on the right, and a line between two."""
    start = 0
    for name, members in groupby(mutant["component"] for mutant in mutants):
        stop = start + len(list(members))
        axes.text(
            1.02, (start + stop - 1) / 2, name, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5,
            color="#333333",
        )  # fmt: skip
        axes.axhline(stop - 0.5, color="#555555", linewidth=0.5)
        start = stop


def _headline(document: Mapping[str, Any]) -> str:
    totals = document["totals"]
    return (
        f"{totals['mutants']} mutants ({totals['real']} real bugs, in bold), {document['dtype']}: "
        f"{totals['caught']} caught, {totals['survived']} survived, "
        f"{totals['invisible']} invisible (bit-equal or within the floor)\n"
        f"kill rate {100 * totals['kill_rate']:.1f} %, at the planted seam {100 * totals['localisation_rate']:.1f} %"
    )
