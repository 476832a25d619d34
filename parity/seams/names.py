"""Names of seams that a subject gave and that no model has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from parity.core.errors import TraceError
from parity.core.trace import SeamKey, Trace
from parity.seams.generation import generation_specs
from parity.seams.model import model_specs
from parity.seams.processor import processor_specs

_SHOWN = 3


def check_names(subject: Trace, reference: Trace, *, of_any_model: bool = False) -> None:
    """Raise TraceError for names that the reference does not have, with the nearest name that it has.

    Names that only other inputs have, such as those of videos, are left alone: their findings say more.
    With ``of_any_model``, names of layers and blocks that only a deeper model has are left alone.
    """
    unknown = unknown_names(subject.entries(), reference.entries())
    if of_any_model:
        kinds = {_kind(key.name) for key in reference.entries()}
        unknown = [name for name in unknown if _kind(name) not in kinds]
    unknown = [name for name in unknown if not _of_another_input(name)]
    if unknown:
        raise TraceError(f"{_where(subject)} has {described(unknown, reference.entries())}; `parity seams` lists them")


def unknown_names(given: Iterable[SeamKey], known: Iterable[SeamKey]) -> list[str]:
    """Return the names that are given and not known, each once."""
    names = {key.name for key in known}
    return list(dict.fromkeys(key.name for key in given if key.name not in names))


def described(unknown: list[str], known: Iterable[SeamKey]) -> str:
    """Return a few unknown names with suggestions, in words."""
    names = sorted({key.name for key in known})
    # Names that differ in a number only have the same cause.
    kinds: dict[str, list[str]] = {}
    for name in unknown:
        kinds.setdefault(_kind(name), []).append(name)
    shown = []
    for members in list(kinds.values())[:_SHOWN]:
        near = get_close_matches(members[0], names, n=1, cutoff=0.5)
        more = f" and {len(members) - 1} more like it" if len(members) > 1 else ""
        shown.append(f"{members[0]!r}{more}" + (f" (do you mean {near[0]!r}?)" if near else ""))
    rest = f" and {len(kinds) - _SHOWN} other kinds" if len(kinds) > _SHOWN else ""
    plural = "names that no seam has" if len(unknown) > 1 else "a name that no seam has"
    return f"{plural}: {', '.join(shown)}{rest}"


def _of_another_input(name: str) -> bool:
    """Whether a seam without numbers in its name has this name."""
    return any(name == spec.name for spec in (*model_specs(), *processor_specs(), *generation_specs()))


def _kind(name: str) -> str:
    return re.sub(r"\d+", "{}", name)


def _where(trace: Trace) -> str:
    place = getattr(trace, "path", None) or getattr(trace, "folder", None)
    return f"{place}" if place is not None else f"the trace of {trace.description.producer}"
