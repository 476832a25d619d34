"""Brings what an engine gave into the form of the reference: passes joined, rows placed, a mask filled in.

Shape legend
    B, S, T, V   batch, tokens of the step, tokens so far, vocabulary
    N            patches or merged patches of a pass
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity.core.bare import BareTrace
from parity.core.errors import TraceError
from parity.core.trace import PADDING, Entry, SeamKey, Trace, dtype_name

LAST_ONLY = "given for the last token of each row"
_LOGITS, _MASK = SeamKey("logits", 0), SeamKey("attention_mask", 0)
_LAST = SeamKey("rows.last", 0)
_CAUSAL = "text.causal_mask"
_SEGMENTS = "vision.cu_seqlens"


def fitted(subject: Trace, reference: Trace, *, causal: bool = False) -> tuple[Trace, Trace]:
    """Return a subject's trace in the form of the reference, and the reference with the rows that were given.

    - Vision values that were given once for each picture are joined to one for each pass.
    - Logits of the prefill may be those of the last token of each row, (B, 1, V) or (B, V).
    - With ``causal``, or if a bare trace says so, the masks are those of an engine that has none as a tensor: a token
      looks at every real token up to itself.
    """
    changed: dict[SeamKey, np.ndarray] = {}
    dropped: set[SeamKey] = set()
    _join_pictures(subject, reference, changed, dropped)
    fitted_reference = _last_tokens(subject, reference, changed)
    if causal or (isinstance(subject, BareTrace) and subject.causal):
        _fill_masks(subject, reference, changed)
    if not changed:
        return subject, fitted_reference
    return _Changed(subject, changed, dropped), fitted_reference


def _join_pictures(subject: Trace, reference: Trace, changed: dict[SeamKey, np.ndarray], dropped: set[SeamKey]) -> None:
    counts = [
        reference.entries()[key].shape[0]
        for key in (SeamKey("image_grid_thw", 0), SeamKey("video_grid_thw", 0))
        if key in reference.entries()
    ]  # pictures of each pass
    calls: dict[str, set[int]] = {}
    for key in subject.entries():
        if key.name.startswith("vision."):
            calls.setdefault(key.name, set()).add(key.call)
    for name, given in calls.items():
        if len(given) <= len(counts) or given != set(range(sum(counts))):
            continue
        start = 0
        for number, count in enumerate(counts):
            parts = [subject.read(SeamKey(name, start + at)) for at in range(count)]
            start += count
            changed[SeamKey(name, number)] = _joined(name, parts)
        dropped |= {SeamKey(name, call) for call in given}


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    try:
        if name != _SEGMENTS:
            return np.concatenate(parts, axis=0)
        ends = [part[-1] for part in parts]
        starts = np.concatenate([[0], np.cumsum(ends)[:-1]]).astype(parts[0].dtype)
        return np.concatenate([parts[0], *(part[1:] + at for part, at in zip(parts[1:], starts[1:], strict=True))])
    except (ValueError, IndexError) as error:
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise TraceError(f"{name} was given once for each picture, and {shapes} cannot be joined: {error}") from None


def _last_tokens(subject: Trace, reference: Trace, changed: dict[SeamKey, np.ndarray]) -> Trace:
    entry = reference.entries().get(_LOGITS)
    if entry is None or _LOGITS not in subject.entries() or len(entry.shape) != 3:
        return reference
    batch, tokens, width = entry.shape
    given = subject.entries()[_LOGITS].shape
    if tokens == 1 or given not in ((batch, 1, width), (batch, width)):
        return reference
    mask = reference.read(_MASK)  # (B, S)
    last = tokens - 1 - mask[:, ::-1].astype(bool).argmax(axis=1)  # (B,)
    array = subject.read(_LOGITS)
    placed = np.zeros(entry.shape, array.dtype)
    placed[np.arange(batch), last] = array.reshape(batch, width)  # (B, V)
    changed[_LOGITS] = placed
    assert entry.rows is not None
    kinds = reference.labels(entry.rows).copy()  # (B, S)
    others = np.ones(kinds.shape, dtype=bool)
    others[np.arange(batch), last] = False
    kinds[others] = PADDING
    return _LastOnly(reference, replace(entry, rows=_LAST), kinds)


def _fill_masks(subject: Trace, reference: Trace, changed: dict[SeamKey, np.ndarray]) -> None:
    real = reference.read(_MASK) == 1  # (B, S)
    for key, entry in reference.entries().items():
        if key.name != _CAUSAL or key in subject.entries() or len(entry.shape) != 4:
            continue
        _, _, tokens, total = entry.shape
        visible = np.ones((len(real), total), dtype=bool)  # (B, T): generated tokens are real
        visible[:, : real.shape[1]] = real
        place = np.arange(total - tokens, total)  # of each token of the step
        causal = np.arange(total)[None, :] <= place[:, None]  # (S, T)
        changed[key] = causal[None, None] & visible[:, None, None, :]  # (B, 1, S, T)


class _Changed(Trace):
    """A trace with some values replaced."""

    def __init__(self, trace: Trace, changed: Mapping[SeamKey, np.ndarray], dropped: set[SeamKey]) -> None:
        self.description, self._trace, self._changed = trace.description, trace, changed
        self.path = getattr(trace, "path", None)
        kept = {key: entry for key, entry in trace.entries().items() if key not in dropped}
        for key, array in changed.items():
            kept[key] = Entry(key=key, step="", group="", gate="float", shape=array.shape, dtype=dtype_name(array))
        self._entries = kept

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        return self._changed[key] if key in self._changed else self._trace.read(key)

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._trace.labels(key)


class _LastOnly(Trace):
    """The reference, of whose logits of the prefill only the last token of each row is compared."""

    def __init__(self, reference: Trace, entry: Entry, kinds: np.ndarray) -> None:
        self.description, self._reference, self._kinds = reference.description, reference, kinds
        self._entries = {**reference.entries(), entry.key: entry}

    def entries(self) -> Mapping[SeamKey, Entry]:
        return self._entries

    def read(self, key: SeamKey) -> np.ndarray:
        return self._reference.read(key)

    def labels(self, key: SeamKey) -> np.ndarray:
        return self._kinds if key == _LAST else self._reference.labels(key)


def is_part(entry: Entry) -> bool:
    """Whether only a part of a value's rows was given."""
    return entry.rows == _LAST
