"""Prepares a case: the tensors that both sides get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from parity.cases.case import Case
from parity.cases.media import Source, is_picture
from parity.cases.media_batch import write_media_batch
from parity.core.errors import ParityError
from parity.core.trace import SeamKey
from parity.runs.fit import check_fit, check_part
from parity.runs.recorder import to_numpy
from parity.runs.stages.processor_stage import ProcessorStage, processor_stage
from parity.runs.store import NOT_KEPT, Labels, TraceStore
from parity.seams.labels import row_labels
from parity.seams.model import Dimensions, expected_model_seams
from parity.seams.spec import Expected
from reference.processor import ReferenceProcessor


@dataclass(frozen=True)
class CaseInputs:
    """``tensors`` holds input_ids and attention_mask (B, S), pixels and grids; ``config`` is config.json.

    ``processed`` is the processor stage that made them: the media's files and every value of the reference's processor.
    ``images`` are the decoded pictures of all rows in order, each with a title, for the report.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    processed: ProcessorStage
    images: Sequence[tuple[str, Image.Image]] = ()
    decode_steps: int = 4
    chunk: int | None = None
    checkpoint: str | None = None

    @property
    def chunks(self) -> int:
        tokens = self.tensors["input_ids"].shape[1]
        return 1 if self.chunk is None else -(-tokens // self.chunk)

    @property
    def expected(self) -> list[Expected]:
        """Return the values that both models must give."""
        return expected_model_seams(
            Dimensions.from_config(self.config),
            decode_steps=self.decode_steps,
            images="pixel_values" in self.tensors,
            videos="pixel_values_videos" in self.tensors,
        )

    def labels(self) -> Labels:
        """Return the kinds of all rows of all values."""
        arrays = {name: to_numpy(tensor) for name, tensor in self.tensors.items()}
        return row_labels(arrays, self.config, decode_steps=self.decode_steps)


def prepare_inputs(
    case: Case,
    *,
    processor: ReferenceProcessor,
    config: Mapping[str, Any],
    checkpoint: str | None = None,
    store: TraceStore = NOT_KEPT,
) -> CaseInputs:
    """Write the media to files and run the reference's processor on them.

    Raises ParityError for media that cannot be read. If the case runs the model, it also raises for inputs that
    the model cannot take: see ``check_fit``.
    """
    for index, row in enumerate(case.rows):
        for source in row:
            check_part(source, row=index, config=config, processor=processor)
    try:
        batch = write_media_batch(case.rows, case.padding_side, case.prompting)
        processed = processor_stage(
            case.name, batch, processor, config, checkpoint=checkpoint, store=store, grids_only=case.grids_only
        )
    except (ParityError, OSError):
        raise
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the disk is full; the input is not the cause
            raise
        # Templates and processor configs are the user's files. Their errors have no common class.
        titles = [part if isinstance(part, str) else part.title for row in case.rows for part in row]
        shown = ", ".join(title if len(title) <= 60 else f"{title[:57]}..." for title in titles)
        raise ParityError(
            f"the reference's processor refuses the input ({shown}): {str(error).rstrip('.')}; check the input, and "
            "the chat template and processor configs of the checkpoint"
        ) from error
    if "model" in case.stages or "generation" in case.stages:
        check_fit(processed.tensors, config, decode_steps=case.decode_steps)
    return CaseInputs(
        case.name,
        processed.tensors,
        config,
        processed,
        () if case.grids_only else _shown(case.rows, processed),
        case.decode_steps,
        case.chunk,
        checkpoint,
    )


def _shown(rows: Sequence[Sequence[Source]], processed: ProcessorStage) -> list[tuple[str, Image.Image]]:
    """Return every picture as the reference decoded it, with a title."""
    titles = [
        f"image {number} of row {index} ({source.title})"
        for index, row in enumerate(rows)
        for number, source in enumerate(filter(is_picture, row), start=1)
    ]
    keys = (SeamKey(f"processor.images.{index}.decoded", 0) for index in range(len(titles)))
    return [
        (title, Image.fromarray(processed.yardstick.trace.read(key))) for title, key in zip(titles, keys, strict=True)
    ]
