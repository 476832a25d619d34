"""The processor stage: from files to token ids, pixels and grids.

The reference's values are the yardstick. A subject's processor starts from the same files and is judged against it.
The models of both sides then run on the outputs of the reference's processor, so that a pixel that is rounded
differently is not taken for an error of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from parity.cases.media_batch import MediaBatch
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import Description, SeamKey
from parity.engines.base import Engine, Sink
from parity.runs.recorder import to_numpy
from parity.runs.stages.stage import Stage
from parity.runs.store import NOT_KEPT, TraceStore
from parity.runs.yardstick import ReferenceRun, measure_yardstick
from parity.seams.labels import KINDS, row_labels
from parity.seams.processor import WHOLE_SEAMS, expected_processor_seams
from parity.seams.spec import Expected, label_key
from reference.media import PicturePath, VideoPath
from reference.processor import ReferenceProcessor


class ProcessorSubject(Engine, Protocol):
    """A subject's processor."""

    def process(self, batch: MediaBatch, sink: Sink) -> None:
        """Process the batch, and send every value with its seam's name to ``sink``. A returned tensor replaces it."""
        ...


@dataclass(frozen=True)
class ProcessorSettings:
    """The settings of a processor that decide which mistakes an input can show."""

    patch: int
    temporal_patch: int
    merge: int
    fps: float | None
    min_frames: int
    least: int  # pixels of a picture
    most: int
    most_of_video: int

    @classmethod
    def of(cls, processor: ReferenceProcessor) -> ProcessorSettings:
        video, size = processor.processor.video_processor, processor.processor.image_processor.size
        return cls(
            video.patch_size,
            video.temporal_patch_size,
            video.merge_size,
            video.fps,
            video.min_frames,
            size["shortest_edge"],
            size["longest_edge"],
            video.size["longest_edge"],
        )


@dataclass(kw_only=True)
class ProcessorStage(Stage[ProcessorSubject]):
    """The stage, and the outputs of the reference's processor: ``tensors`` are the model's inputs."""

    batch: MediaBatch
    settings: ProcessorSettings
    tensors: dict[str, Tensor]


def processor_stage(
    name: str,
    batch: MediaBatch,
    processor: ReferenceProcessor,
    config: Mapping[str, Any],
    *,
    checkpoint: str | None = None,
    store: TraceStore = NOT_KEPT,
    grids_only: bool = False,
) -> ProcessorStage:
    """Run the reference's processor. Raises ParityError if it does not give exactly the expected seams.

    With ``grids_only``, the values of single pictures and videos are not compared.
    """
    expected = expected_of(batch, processor, grids_only=grids_only)
    tensors: dict[str, Tensor] = {}

    def run(sink: Sink) -> None:
        tensors.update(
            processor.prepare(
                batch.rows,
                padding_side=batch.padding_side,
                sink=sink,
                prompting=batch.prompting,
                grids_only=grids_only,
            )
        )

    def labels() -> dict[SeamKey, np.ndarray]:
        return prompt_labels(tensors, config)

    description = Description("transformers", "processor", "float32", name, checkpoint, KINDS)
    reference = ReferenceRun("processor", description, run)
    yardstick = measure_yardstick(reference, (), expected, labels, name="reference-processor", store=store)
    return ProcessorStage(
        name="processor",
        case=name,
        expected=expected,
        labels=labels,
        # Every value has an exact or a step gate, in both comparisons.
        yardstick=replace(yardstick, isolated_gate=DEFAULT_GATE),
        run=lambda subject, sink: subject.process(batch, _only(expected, sink) if grids_only else sink),
        checkpoint=checkpoint,
        batch=batch,
        settings=ProcessorSettings.of(processor),
        tensors=tensors,
    )


def _only(expected: Sequence[Expected], sink: Sink) -> Sink:
    """Pass on the expected values alone."""
    names = {item.key.name for item in expected}
    return lambda name, tensor: sink(name, tensor) if name in names else None


def expected_of(batch: MediaBatch, processor: ReferenceProcessor, *, grids_only: bool = False) -> list[Expected]:
    """Return the values that a processor must give for this batch."""
    own = processor.processor
    expected = expected_processor_seams(
        batch.count(PicturePath),
        batch.count(VideoPath),
        image_step=_step(own.image_processor),
        video_step=_step(own.video_processor),
    )
    return [item for item in expected if not grids_only or item.spec in WHOLE_SEAMS]


def prompt_labels(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[SeamKey, np.ndarray]:
    """Return the kinds of the prompt's tokens."""
    arrays = {name: to_numpy(tensor) for name, tensor in tensors.items() if not name.startswith("pixel_values")}
    key = label_key("tokens", 0)
    return {key: row_labels(arrays, config, decode_steps=0)[key]}


def _step(own: Any) -> float:
    """Return one 8-bit step in normalised pixels, in the channel in which it is smallest."""
    step: float = own.rescale_factor / max(own.image_std)
    return step
