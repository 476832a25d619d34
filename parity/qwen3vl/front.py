"""The first leg of a run: from files to token ids, pixels and grids, by the reference's processor and the subject's.

The reference's values are kept as a trace. A subject's processor starts from the same files and is judged against
it; the models of both sides then run on what the reference's processor gave.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from parity.core.compare import Comparison, Finding
from parity.core.errors import ParityError
from parity.core.floors import Floors
from parity.core.folder import FolderTrace
from parity.core.gates import DEFAULT_GATE
from parity.core.isolation import combine_readings
from parity.core.trace import Description, SeamKey, Trace
from parity.qwen3vl.engines import Sink
from parity.qwen3vl.files import as_file
from parity.qwen3vl.labels import KINDS, row_labels
from parity.qwen3vl.media import Source
from parity.qwen3vl.processor_seams import expected_processor_seams
from parity.qwen3vl.recorder import Recorder, both, to_numpy
from parity.qwen3vl.seams import Expected, label_key
from parity.qwen3vl.store import NOT_KEPT, TraceStore
from port import PortError, Processor, listening
from reference.processor import PicturePath, ReferenceProcessor, VideoPath

Padding = Literal["left", "right"]
Row = Sequence[str | PicturePath | VideoPath]


@dataclass(frozen=True)
class Material:
    """One user turn per row: texts, and files of pictures and videos. ``spool`` holds the files that were written."""

    rows: Sequence[Row]
    padding_side: Padding
    spool: tempfile.TemporaryDirectory[str]

    @property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """As the port's processor, and Hugging Face's, take them."""
        return [[{"role": "user", "content": [_content(part) for part in row]}] for row in self.rows]

    def count(self, kind: type) -> int:
        """How many pictures (PicturePath) or videos (VideoPath) there are in all rows."""
        return sum(isinstance(part, kind) for row in self.rows for part in row)


def write_material(rows: Sequence[Sequence[Source]], padding_side: Padding) -> Material:
    """Bring every picture and clip into a file."""
    spool = tempfile.TemporaryDirectory(prefix="parity-media-")
    folder = Path(spool.name)
    named = [[as_file(part, folder, f"{at}-{place}") for place, part in enumerate(row)] for at, row in enumerate(rows)]
    return Material(named, padding_side, spool)


@dataclass(frozen=True)
class Rules:
    """The few settings of a processor that decide what an input can show."""

    patch: int
    temporal_patch: int
    merge: int
    fps: float | None
    min_frames: int

    @classmethod
    def of(cls, processor: ReferenceProcessor) -> Rules:
        video = processor.processor.video_processor
        return cls(video.patch_size, video.temporal_patch_size, video.merge_size, video.fps, video.min_frames)


@dataclass(frozen=True)
class Front:
    """The reference's first leg. ``tensors`` is what its processor returns, ``trace`` every value on the way."""

    material: Material
    rules: Rules
    tensors: dict[str, Tensor]
    expected: Sequence[Expected]
    trace: Trace

    def labels(self) -> dict[SeamKey, np.ndarray]:
        """The kinds of the prompt's tokens."""
        return {key: self.trace.labels(key) for key in {item.rows for item in self.expected} if key is not None}


def reference_front(
    name: str,
    material: Material,
    processor: ReferenceProcessor,
    config: Mapping[str, Any],
    *,
    store: TraceStore = NOT_KEPT,
) -> Front:
    """Run the reference's processor. Raises ParityError when it does not give exactly the expected seams."""
    expected = expected_of(material, processor)
    order = [item.key for item in expected]
    spool = Path(material.spool.name)
    kept = store if store.folder is not None else TraceStore(spool)
    description = Description("transformers", "processor", "float32", name, kinds=KINDS)
    seen: list[SeamKey] = []
    tensors: dict[str, Tensor] = {}
    with kept.recording("reference-processor", description, expected, lambda: prompt_labels(tensors, config)) as keep:
        recorder = Recorder(expected, both(lambda key, _array: seen.append(key), keep))
        tensors |= processor.prepare(material.rows, padding_side=material.padding_side, sink=recorder)
    if sorted(seen) != sorted(order):
        raise ParityError(
            f"the reference's processor gave {len(seen)} seams, {len(order)} are expected: "
            f"{[str(key) for key in set(order) ^ set(seen)][:10]}; this version of transformers is not read correctly"
        )
    return Front(
        material, Rules.of(processor), tensors, expected, FolderTrace((kept.folder or spool) / "reference-processor")
    )


class FrontEnd(Protocol):
    """A subject's processor."""

    @property
    def name(self) -> str: ...

    def trace(self, material: Material, sink: Sink) -> None:
        """Process the batch, every value under its seam's name to ``sink``; what it returns replaces the value."""
        ...


class PortFront:
    """The port's processor."""

    name = f"port {version('qwen3vl-parity')}"

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def trace(self, material: Material, sink: Sink) -> None:
        def listen(name: str, tensor: Tensor) -> Tensor:
            replaced = sink(name, tensor)
            return tensor if replaced is None else replaced

        with listening(listen):
            self.processor(material.conversations, padding_side=material.padding_side)


@dataclass(frozen=True)
class FrontResult:
    """``error`` is what the processor raised, where it did."""

    findings: list[Finding]
    error: str | None = None


def judge_front(front: Front, subject: FrontEnd, *, alone: bool = True, store: TraceStore = NOT_KEPT) -> FrontResult:
    """Judge a subject's processor: on its own, and with ``alone`` each part by itself on the reference's values."""
    comparison = Comparison(front.trace, Floors(front.trace), DEFAULT_GATE)
    description = replace(front.trace.description, producer=subject.name)
    with store.recording("subject-processor", description, front.expected, front.labels) as keep:
        error = _trace(front, subject, Recorder(front.expected, both(comparison.judge, keep)))
    why = "the subject did not give this seam" if error is None else f"the subject failed before: {error}"
    findings = comparison.findings(why_missing=why)
    if error is None and alone:
        parts = Comparison(front.trace, Floors(front.trace), DEFAULT_GATE)
        error = _trace(front, subject, Recorder(front.expected, parts.judge, instead=front.trace))
        findings = combine_readings(findings, parts.findings())
    return FrontResult(findings, error)


def _trace(front: Front, subject: FrontEnd, sink: Recorder) -> str | None:
    try:
        subject.trace(front.material, sink)
    except (PortError, RuntimeError, ValueError, IndexError, KeyError, TypeError, AssertionError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return None


def expected_of(material: Material, processor: ReferenceProcessor) -> list[Expected]:
    """The seams that a processor must give on this material."""
    own = processor.processor
    return expected_processor_seams(
        material.count(PicturePath),
        material.count(VideoPath),
        image_step=_step(own.image_processor),
        video_step=_step(own.video_processor),
    )


def _step(own: Any) -> float:
    """One 8-bit step in normalised pixels; of the channel in which it is smallest."""
    return own.rescale_factor / max(own.image_std)


def prompt_labels(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[SeamKey, np.ndarray]:
    """The kinds of the prompt's tokens."""
    arrays = {name: to_numpy(tensor) for name, tensor in tensors.items() if not name.startswith("pixel_values")}
    key = label_key("tokens", 0)
    return {key: row_labels(arrays, config, decode_steps=0)[key]}


def _content(part: str | PicturePath | VideoPath) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return (
        {"type": "image", "image": part.path}
        if isinstance(part, PicturePath)
        else {"type": "video", "video": part.path}
    )
