"""Margins over runs: sign-offs and suites in the subfolders of a folder, ordered by their time. Needs no torch.

A series is the worst ratio of a seam over all evidence of a run, or the worst ratio of a case. Its margin is what the
ratio leaves of the gate.

Noise: runs of the same subject differ by noise alone (threads, machine, libraries). So the noise of a series is the
largest difference between two of its runs that judged the same: the same code and, for an engine that hands in
traces, the same traces. A ratio over the gate is a failure and no noise. Where no two runs judged the same, noise is
three times the median change between neighbouring runs over all series, as most changes move few seams. It is never
taken to be below ``LEAST`` of the gate. A margin shrank if the ratio is larger than the smallest one before by more
than that, so that a slow loss is noticed as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from parity.bundles.jsonfile import read_json
from parity.core.errors import ParityError
from parity.milestones.keys import digest_json
from parity.milestones.records import verify
from parity.milestones.records.difference import seam_ratios
from parity.milestones.records.record import RECORD

LEAST = 0.01
_TIMES_MEDIAN = 3.0
_MOST_RUNS = 500
_REPORT = "report.json"


@dataclass(frozen=True)
class Run:
    """One run: where it is, what it was, and the worst ratio of every series."""

    folder: str
    kind: str
    created: str
    label: str
    commit: str
    judged: str  # digest of the code, and of the traces of an engine that hands them in
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Series:
    """One ratio over all runs, None where a run lacks it. ``shrank`` is the index of the first run that lost."""

    name: str
    ratios: tuple[float | None, ...]
    noise: float
    noise_from: str
    shrank: int | None
    before: float | None


def read_runs(folder: Path) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the runs below a folder by time, and what could not be read with the reason.

    Raises ParityError if there are no two runs.
    """
    if not folder.is_dir():
        raise ParityError(f"{folder} is not a folder; name one whose subfolders are sign-offs or suites")
    places = sorted({path.parent for name in (RECORD, _REPORT) for path in folder.glob(f"*/{name}")})
    if len(places) > _MOST_RUNS:
        raise ParityError(f"{folder} has {len(places)} reports; at most {_MOST_RUNS} are read, move older ones away")
    runs: list[Run] = []
    skipped: list[dict[str, str]] = []
    for place in places:
        try:
            runs.append(_signoff(place) if (place / RECORD).is_file() else _suite(place))
        except ParityError as error:
            skipped.append({"folder": place.name, "why": str(error)})
    if len(runs) < 2:
        why = f"; not read: {skipped[0]['folder']}: {skipped[0]['why']}" if skipped else ""
        raise ParityError(f"{folder} has {len(runs)} sign-offs and suites in its subfolders; a history needs two{why}")
    return sorted(runs, key=lambda run: (run.created, run.folder)), skipped


def _signoff(place: Path) -> Run:
    record = verify.read_record(place / RECORD)
    fault = next(verify.changed(record), None)
    if fault is not None:
        raise ParityError(f"the record does not hold: {fault}")
    signed = record.signed
    cases = {
        item["id"]: item["worst"]["ratio"]
        for milestone in signed["milestones"]
        for item in milestone["items"]
        if item["kind"] == "case" and item["worst"] is not None and item["worst"]["ratio"] is not None
    }
    seams = {f"seam:{name}": ratio for name, ratio in seam_ratios(signed["evidence"]).items()}
    return Run(
        place.name, "sign-off", signed["run"]["created"], signed["verdict"]["label"], signed["subject"]["commit"],
        _judged(signed), {**seams, **cases},
    )  # fmt: skip


def _judged(signed: Mapping[str, Any]) -> str:
    """Return a digest of what was judged. The code of a record by a bundle is that of the judge, not of the engine."""
    traces = sorted({str(found["key"]["traces"]) for found in signed["evidence"].values() if "traces" in found["key"]})
    return digest_json([signed["subject"]["code"], traces])


def _suite(place: Path) -> Run:
    document = read_json(place / _REPORT)
    try:
        if document["kind"] != "suite":
            raise ParityError(f"it is a report of the kind {document['kind']}, not a suite or a sign-off")
        dtype = document["made_with"]["dtype"]
        ratios = {
            f"case:{case['name']}:{dtype}": float(case["worst"]["ratio"])
            for case in document["cases"]
            if case["worst"] is not None and case["worst"]["ratio"] is not None
        }
        created, label = document["environment"]["created"], document["verdict"]["value"]
        code = document["made_with"]["code"]
    except (KeyError, TypeError, ValueError) as error:
        raise ParityError(f"it is no report of a suite that this version reads: {error!r}") from None
    return Run(place.name, "suite", created, label, "unknown", digest_json([code, []]), ratios)


def history(runs: Sequence[Run]) -> list[Series]:
    """Return every series, those whose margin shrank first, then the one nearest to its gate in the last run."""
    names = list(dict.fromkeys(name for run in runs for name in run.ratios))
    rows = {name: [run.ratios.get(name) for run in runs] for name in names}
    changes = [abs(b - a) for row in rows.values() for a, b in _neighbours(row) if max(a, b) <= 1]
    pooled = max(LEAST, _TIMES_MEDIAN * median(changes)) if changes else LEAST
    codes = [run.judged for run in runs]
    return sorted((_series(name, row, codes, pooled) for name, row in rows.items()), key=_urgency)


def _series(name: str, row: Sequence[float | None], codes: Sequence[str], pooled: float) -> Series:
    pairs = [
        abs(a - b)
        for (a, code), (b, other) in combinations(zip(row, codes, strict=True), 2)
        if a is not None and b is not None and max(a, b) <= 1 and code == other
    ]
    noise, origin = (max(LEAST, *pairs), "same subject") if pairs else (pooled, "all series")
    shrank, before = None, None
    best: float | None = None
    for index, ratio in enumerate(row):
        if ratio is None:
            continue
        if best is not None and ratio - best > noise:
            shrank, before = index, best
            break
        best = ratio if best is None else min(best, ratio)
    return Series(name, tuple(row), noise, origin, shrank, before)


def _neighbours(row: Sequence[float | None]) -> Iterator[tuple[float, float]]:
    known = [ratio for ratio in row if ratio is not None]
    yield from pairwise(known)


def _urgency(series: Series) -> tuple[float, float]:
    last = series.ratios[-1] if series.ratios[-1] is not None else 0.0
    if series.shrank is None:
        return float("inf"), -last
    ratio, before = series.ratios[series.shrank], series.before
    assert ratio is not None
    assert before is not None
    return series.shrank, before - ratio


def to_json(series: Series) -> dict[str, Any]:
    """Return a series as a section of a document."""
    return {
        "name": series.name,
        "ratios": list(series.ratios),
        "noise": series.noise,
        "noise_from": series.noise_from,
        "shrank": series.shrank,
        "before": series.before,
    }
