"""One case, ready to run: the tensors that both sides get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from parity.core.errors import ParityError
from parity.qwen3vl.media import Source, load
from parity.qwen3vl.seams import Dimensions, Expected, expected_seams
from reference.processor import ReferenceProcessor


@dataclass(frozen=True)
class CaseInputs:
    """``tensors`` holds input_ids and attention_mask (B, S), pixels and grids; ``config`` is config.json.

    ``images`` are the pictures of all rows in reading order, with a title each, for the report.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    images: Sequence[tuple[str, Image.Image]] = ()
    decode_steps: int = 4
    chunk: int | None = None

    @property
    def chunks(self) -> int:
        tokens = self.tensors["input_ids"].shape[1]
        return 1 if self.chunk is None else -(-tokens // self.chunk)

    @property
    def expected(self) -> list[Expected]:
        """The readings that both sides must give."""
        return expected_seams(
            Dimensions.from_config(self.config),
            decode_steps=self.decode_steps,
            images="pixel_values" in self.tensors,
            videos="pixel_values_videos" in self.tensors,
        )


def prepare_inputs(
    name: str,
    rows: Sequence[Sequence[Source]],
    *,
    processor: ReferenceProcessor,
    config: Mapping[str, Any],
    padding_side: Literal["left", "right"] = "left",
    decode_steps: int = 4,
    chunk: int | None = None,
) -> CaseInputs:
    """Decode the media and run the reference's processor. Raises ParityError for media that cannot be read."""
    loaded = [[load(source) for source in row] for row in rows]
    images = [
        (f"image {len_before + 1} of row {index} ({source.title})", part)
        for index, (row, parts) in enumerate(zip(rows, loaded, strict=True))
        for len_before, (source, part) in enumerate(_pictures(row, parts))
    ]
    try:
        tensors = processor.prepare(loaded, padding_side=padding_side)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ParityError(f"the reference's processor refuses the input: {error}") from error
    return CaseInputs(name, tensors, config, images, decode_steps, chunk)


def _pictures(row: Sequence[Source], parts: Sequence[Any]) -> list[tuple[Any, Image.Image]]:
    pairs = zip(row, parts, strict=True)
    return [(source, part) for source, part in pairs if isinstance(part, Image.Image)]
