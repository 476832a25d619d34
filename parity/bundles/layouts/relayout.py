"""Whether failing values are right but laid out differently: axes in another order, heads or q, k and v interleaved.

A value counts as laid out differently only if it matches the reference after the move, and what the model makes of it
is right. A model that computes with wrongly ordered numbers is wrong, and what follows shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from parity.core.compare import Comparison, Finding
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import SeamKey, Trace

_MOST_AXES = 5
_KINDS = 8  # kinds of seams without a move after which no more are looked at
_NO_AXIS = "without an axis of length 1"
_CLOSE = 0.5  # relative distance below which a move is judged row by row
_MADE_OF_ALL = re.compile(r".*\.(attn\.out|mlp\.out|out|deepstack)|vision\.(merger|deepstack\.\d+)|text\.norm|logits")


@dataclass(frozen=True)
class Moved:
    """A kind of seam that matches after a move, in words, and the findings after it."""

    seam: str
    move: str
    findings: tuple[Finding, ...]


def moved(findings: Sequence[Finding], subject: Trace, reference: Trace, floors: Floors) -> list[Moved]:
    """Return the kinds of failing seams that match the reference after a move, and whose successors are right."""
    failing: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.status in ("diverged", "shape_mismatch"):
            failing.setdefault(kind_of(finding.entry.key.name), []).append(finding)
    found: list[Moved] = []
    tried = 0
    for kind, members in failing.items():
        move = _move(members, subject, reference, floors)
        tried += move is None
        if move is not None:
            found.append(Moved(kind, *move))
        if tried == _KINDS:
            break
    # An axis of length 1 that is missing changes no number, whatever follows.
    plain = {one.seam for one in found if one.move.startswith(_NO_AXIS)}
    right = {finding.entry.key for one in found if one.seam in plain for finding in one.findings}
    right |= {finding.entry.key for finding in findings if finding.passed}
    return [one for one in found if one.seam in plain or _successors_are_right(findings, one.seam, right)]


def kind_of(name: str) -> str:
    """Return a seam's name with {} for numbers."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", name)


def only_here(findings: Sequence[Finding]) -> str | None:
    """Return the kind of seam that alone fails, though all that is made of it was given and is right, or None."""
    failing = {kind_of(finding.entry.key.name) for finding in findings if finding.status == "diverged"}
    others = any(finding.status in ("shape_mismatch", "unexpected", "nonfinite") for finding in findings)
    if len(failing) != 1 or others:
        return None
    (kind,) = failing
    right = {finding.entry.key for finding in findings if finding.passed}
    return kind if _successors_are_right(findings, kind, right) and _has_later_call(findings, kind) else None


def _has_later_call(findings: Sequence[Finding], kind: str) -> bool:
    """A cache is used by the next step: its last call has no successor, so it must not be the one that fails."""
    if not kind.endswith("_cache"):
        return True
    calls = [finding.entry.key.call for finding in findings if kind_of(finding.entry.key.name) == kind]
    return not any(
        finding.status == "diverged" and finding.entry.key.call == max(calls)
        for finding in findings
        if kind_of(finding.entry.key.name) == kind
    )


def _successors_are_right(findings: Sequence[Finding], kind: str, right: set[SeamKey]) -> bool:
    """Whether a later value that is made of all before it was given, in the same step, and is right."""
    if kind == "logits":
        return True  # nothing is made of them, and no model computes with axes in another order
    for at, finding in enumerate(findings):
        if kind_of(finding.entry.key.name) != kind or finding.status not in ("diverged", "shape_mismatch"):
            continue
        later = (
            item
            for item in findings[at + 1 :]
            if item.entry.step == finding.entry.step
            and item.compared
            and kind_of(item.entry.key.name) != kind
            and _MADE_OF_ALL.fullmatch(item.entry.key.name)
        )
        following = next(later, None)
        if following is None or following.entry.key not in right:
            return False
    return True


def _move(
    members: Sequence[Finding], subject: Trace, reference: Trace, floors: Floors
) -> tuple[str, tuple[Finding, ...]] | None:
    """Return the move after which every member matches, in words, and the findings after it."""
    first = members[0].entry
    target = reference.read(first.key)
    for words, array in _moves(subject.read(first.key), first.key, reference):
        if array.shape != target.shape or not _near(array, target):
            continue
        after = []
        for finding in members:
            key = finding.entry.key
            again = next((moved for same, moved in _moves(subject.read(key), key, reference) if same == words), None)
            if again is None:
                break
            judged = Comparison(reference, floors, DEFAULT_GATE).judge(key, again)
            if not judged.passed:
                break
            after.append(judged)
        else:
            return words, tuple(after)
    return None


def _near(array: np.ndarray, target: np.ndarray) -> bool:
    if array.dtype.kind in "biu" or target.dtype.kind in "biu":
        return bool((array == target).mean() > 1 - _CLOSE)
    left, right = array.astype(np.float64), target.astype(np.float64)
    return bool(np.linalg.norm(left - right) <= _CLOSE * np.linalg.norm(right))


def _moves(array: np.ndarray, key: SeamKey, reference: Trace) -> Iterator[tuple[str, np.ndarray]]:
    """Yield moves that give the reference's shape, in words."""
    shape = reference.entries()[key].shape
    if array.size != int(np.prod(shape, dtype=np.int64)) or array.ndim > _MOST_AXES:
        return
    if array.shape != shape:
        ones = [length for length in array.shape if length != 1] == [length for length in shape if length != 1]
        yield _NO_AXIS if ones else "with its axes split or joined", array.reshape(shape)  # to the reference's shape
    for order in permutations(range(array.ndim)):
        if order == tuple(range(array.ndim)):
            continue
        turned = array.transpose(order)
        if array.shape == shape and turned.shape != shape:
            continue
        yield f"with its axes in the order {order}", turned.reshape(shape)
    if array.shape != shape:
        return
    if key.name.endswith("attn.qkv"):
        yield from _of_qkv(array, SeamKey(key.name.replace("qkv", "q_rope"), key.call), reference)
    if key.name.endswith(("q_rope", "k_rope", "rope_cos", "rope_sin")) and shape[-1] % 2 == 0:
        pairs = array.reshape(*shape[:-1], shape[-1] // 2, 2)  # (..., D/2, 2)
        yield "with channels in pairs instead of halves", pairs.swapaxes(-1, -2).reshape(shape)


def _of_qkv(array: np.ndarray, heads: SeamKey, reference: Trace) -> Iterator[tuple[str, np.ndarray]]:
    """Of q, k and v in one value (N, 3 * H * D): another order, or one after the other in each head."""
    if heads not in reference.entries():
        return
    patches, count, width = reference.entries()[heads].shape
    whole = array.reshape(patches, 3, count, width)  # (N, 3, H, D)
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            names = ", ".join("qkv"[order.index(place)] for place in range(3))
            yield f"in the order {names}", whole[:, list(order)].reshape(array.shape)
    each = array.reshape(patches, count, 3, width).swapaxes(1, 2)  # (N, H, 3, D) -> (N, 3, H, D)
    yield "with q, k and v one after the other in each head", each.reshape(array.shape)
