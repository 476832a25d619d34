"""The check against accepted figures, which are data: ratios with their noise, and counts that may not grow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from parity.bench.ratios import is_slower
from parity.bench.session import Measured
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from reports.atomic import write_files

FORMAT = 1
_LARGEST = 1 << 20  # bytes of a file of accepted figures


@dataclass(frozen=True)
class Checked:
    """The verdict over a session, with every reason why it failed."""

    verdict: Verdict
    reason: str
    slower: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()


def shipped() -> Path:
    """The accepted figures of this repository."""
    return Path(str(files("parity.bench").joinpath("data/accepted.json")))


def read_accepted(path: Path) -> dict[str, Any]:
    """Read a file of accepted figures: machine class -> checkpoint digest -> work. Raises ParityError."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ParityError(
                f"{path} has {path.stat().st_size} bytes, expected at most {_LARGEST}; is it another file?"
            )
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParityError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ParityError(f"{path} is not JSON: {error}") from None
    _check_format(path, found)
    accepted: dict[str, Any] = found["accepted"]
    return accepted


def _check_format(path: Path, found: Any) -> None:
    def is_number(value: Any, *kinds: type) -> bool:
        return type(value) in kinds and bool(0 <= value < 1e30)

    good = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("accepted"), dict)
    for checkpoints in found["accepted"].values() if good else ():
        for works in checkpoints.values() if isinstance(checkpoints, dict) else [None]:
            for work in works.values() if isinstance(works, dict) else [None]:
                good = (
                    good
                    and isinstance(work, dict)
                    and is_number(work.get("ratio"), int, float)
                    and all(is_number(ratio, int, float) for ratio in _list(work.get("sessions", [])))
                    and (work.get("counts") is None or isinstance(work["counts"], dict))
                    and all(is_number(value, int) for value in (work.get("counts") or {}).values())
                )
    if not good:
        raise ParityError(f"{path} does not hold accepted figures of format {FORMAT}; make it with bench --accept")


def _list(value: Any) -> list[Any]:
    """A list as it is; anything else as a list of something that is no number."""
    return value if isinstance(value, list) else [None]


def accept(path: Path, machine: str, checkpoint: str, measured: Sequence[Measured]) -> None:
    """Put the figures of a session into a file of accepted figures. Those of others stay.

    Sessions differ by more than their own noise: where in memory things lie, for example. So sessions with the same
    counts are kept together, and the lowest of their ratios is accepted. Other counts start anew.
    """
    accepted = read_accepted(path) if path.exists() else {}
    known = accepted.setdefault(machine, {}).get(checkpoint, {})
    accepted[machine][checkpoint] = {
        each.work.name: _with_session(known.get(each.work.name), each) for each in measured
    }
    text = json.dumps({"format": FORMAT, "accepted": accepted}, indent=1, sort_keys=True) + "\n"
    write_files({path: text.encode("utf-8")})


def _with_session(known: Mapping[str, Any] | None, each: Measured) -> dict[str, Any]:
    counts = None if each.counts is None else each.counts.to_json()
    sessions = [round(each.ratio.middle, 4)]
    if known is not None and known["counts"] == counts:
        sessions = [*known.get("sessions", [known["ratio"]]), *sessions]
    return {"ratio": min(sessions), "sessions": sessions, "counts": counts}


def check(accepted: Mapping[str, Any], machine: str, checkpoint: str, measured: Sequence[Measured]) -> Checked:
    """Judge a session by accepted figures.

    DIVERGED if a ratio is lower by more than the session's noise or a count has grown, INCOMPLETE if there are no
    accepted figures for this class of machine and checkpoint, or for one of the works.
    """
    known = accepted.get(machine, {}).get(checkpoint)
    if known is None:
        return Checked(
            Verdict.INCOMPLETE,
            f"there are no accepted figures of this checkpoint for the class {machine!r}; measure them on a quiet "
            "machine with --accept FILE",
        )
    slower, grown = [], []
    for each in measured:
        figures = known.get(each.work.name)
        if figures is None:
            continue
        if is_slower(each.ratio, each.control, figures["ratio"]):
            slower.append(
                f"{each.work.name}: {each.ratio.middle:.2f} x [{each.ratio.low:.2f}, {each.ratio.high:.2f}], accepted "
                f"{figures['ratio']:.2f} x, noise {each.control.noise - 1:.0%}"
            )
        counts = {} if each.counts is None else each.counts.to_json()
        for name, most in (figures["counts"] or {}).items():
            if counts.get(name, most + 1) > most:
                grown.append(f"{each.work.name}: {name} {counts.get(name, 'not counted')}, accepted {most}")
    if slower or grown:
        reason = "; ".join([*(f"slower: {line}" for line in slower), *(f"grown: {line}" for line in grown)])
        return Checked(Verdict.DIVERGED, reason, tuple(slower), tuple(grown))
    missing = sorted({each.work.name for each in measured} ^ known.keys())
    if missing:
        return Checked(Verdict.INCOMPLETE, f"these works are accepted or measured, but not both: {', '.join(missing)}")
    return Checked(Verdict.PARITY, f"all {len(measured)} works are as fast as accepted, and no count has grown")
