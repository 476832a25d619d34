"""What is wrong with a trace for a bundle, with one problem for each cause."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from parity.bundles.bundle import FLOORED, Bundle, BundleCase
from parity.bundles.judging import Selection, case_of, open_trace, stage_of, trace_places
from parity.bundles.layouts.fitting import fitted
from parity.bundles.layouts.layout import Layout
from parity.bundles.layouts.relayout import kind_of
from parity.core.errors import ParityError
from parity.core.trace import SeamKey, Trace
from parity.seams.names import described, unknown_names
from parity.seams.promise import Promise

_SHOWN = 3


def problems_against(bundle: Bundle, folder: Path, promised: Promise, layout: Layout | None) -> dict[Path, list[str]]:
    """Return the problems of every trace at or below a folder. Raises ParityError if there is no trace."""
    selection = Selection()
    found: dict[Path, list[str]] = {}
    for place in trace_places(folder):
        try:
            trace = open_trace(place, bundle, selection)
            found[place] = list(_problems(bundle, trace if layout is None else layout.apply(trace), promised))
        except ParityError as error:
            found[place] = [str(error)]
    if not found:
        raise ParityError(f"{folder} has no trace; see parity/bundles/README.md")
    return found


def _problems(bundle: Bundle, trace: Trace, promised: Promise) -> Iterator[str]:
    name, stage, described_as = case_of(trace, bundle, Selection()), stage_of(trace), trace.description
    case = bundle.cases.get(name)
    if case is None or stage not in case.stages:
        yield f"it is a {stage} trace of {name!r}; the bundle has {', '.join(bundle.cases)}"
        return
    if described_as.checkpoint not in (None, case.checkpoint):
        yield f"its checkpoint is {described_as.checkpoint}, the bundle's {case.checkpoint}"
    if stage in FLOORED and described_as.dtype not in case.dtypes:
        yield f"its dtype is {described_as.dtype}; the bundle has floors for {', '.join(case.dtypes)}"
        return
    yield from _of_values(case, trace, stage, promised)


def _of_values(case: BundleCase, trace: Trace, stage: str, promised: Promise) -> Iterator[str]:
    reference: Trace = case.reference(stage, trace.description.dtype)
    unknown = unknown_names(trace.entries(), reference.entries())
    if unknown:
        yield described(unknown, reference.entries())
    if stage == "model":
        trace, reference = fitted(trace, reference)
    given, known = trace.entries(), reference.entries()
    often = [key for key in given if key not in known and key.name not in unknown]
    if often:
        calls = max((key.call for key in known if key.name == often[0].name), default=0) + 1
        yield f"{_names(often)} given too often: {often[0].name} has {calls} calls in this case"
    shapes: dict[str, list[SeamKey]] = {}
    for key, entry in given.items():
        if key in known and entry.shape != known[key].shape:
            shapes.setdefault(_cause(entry.shape, known[key].shape), []).append(key)
    for cause, keys in shapes.items():
        first = keys[0]
        yield f"{_names(keys)}: {cause}, such as {list(given[first].shape)} instead of {list(known[first].shape)}"
    kinds = [key for key, entry in given.items() if key in known and _whole(entry.dtype) != _whole(known[key].dtype)]
    if kinds:
        yield f"{_names(kinds)}: {given[kinds[0]].dtype} instead of {known[kinds[0]].dtype}"
    missing = [key for key in known if key in promised.keys(known) and key not in given]
    if missing:
        yield f"{len(missing)} of {len(known)} seams are not given: {_names(missing)}"


def _cause(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if [one for one in given if one != 1] == [one for one in wanted if one != 1]:
        return "an axis of length 1 is missing or too many"
    if sorted(given) == sorted(wanted):
        return "the axes are in another order"
    sizes = 1, 1
    for one in given:
        sizes = sizes[0] * one, sizes[1]
    for one in wanted:
        sizes = sizes[0], sizes[1] * one
    return "axes are split or joined" if sizes[0] == sizes[1] else "another number of rows or channels"


def _whole(dtype: str) -> bool:
    return dtype.lower().startswith(("int", "uint", "bool", "i", "u"))


def _names(keys: list[SeamKey]) -> str:
    kinds = list(dict.fromkeys(kind_of(key.name) for key in keys))
    return ", ".join(kinds[:_SHOWN]) + (f" and {len(kinds) - _SHOWN} more kinds" if len(kinds) > _SHOWN else "")
