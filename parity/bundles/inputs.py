"""What an engine is fed: ``inputs.safetensors`` of a case, under the names that transformers gives them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.core.errors import TraceError
from parity.core.trace import SeamKey

# The seams of the model stage that hold the inputs. Position ids are (3, B, S).
SEAM_OF = {
    "input_ids": SeamKey("input_ids", 0),
    "attention_mask": SeamKey("attention_mask", 0),
    "pixel_values": SeamKey("image_pixels", 0),
    "image_grid_thw": SeamKey("image_grid_thw", 0),
    "pixel_values_videos": SeamKey("video_pixels", 0),
    "video_grid_thw": SeamKey("video_grid_thw", 0),
    "position_ids": SeamKey("text.position_ids", 0),
}
# Pixels and grids of the tower's two passes, by the word in the names of the processor's seams.
PASSES = {"images": ("pixel_values", "image_grid_thw"), "videos": ("pixel_values_videos", "video_grid_thw")}


class Inputs:
    """The tensors of ``inputs.safetensors``, read one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> set[str]:
        return set(self._handle.keys())

    def read(self, name: str) -> np.ndarray:
        """Return a tensor. Raises TraceError if the file does not have it."""
        try:
            array: np.ndarray = self._handle.get_tensor(name)
            return array
        except (OSError, SafetensorError, AttributeError, TypeError) as error:
            raise TraceError(f"{self.path} does not give {name!r}: {error}") from None

    def patches(self, kind: str, index: int) -> np.ndarray:
        """Return the patches (N, C) of one picture (``images``) or video (``videos``) of the batch."""
        pixels, grid = PASSES[kind]
        sizes = np.prod(self.read(grid), axis=1)  # (pictures,)
        stops = np.cumsum(sizes)
        if index >= len(stops):
            raise TraceError(f"{self.path} has {len(stops)} {kind}, not number {index}")
        return self.read(pixels)[stops[index] - sizes[index] : stops[index]]

    @cached_property
    def _handle(self) -> Any:
        try:
            return safe_open(self.path, framework="np").__enter__()  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError) as error:
            raise TraceError(f"{self.path} cannot be read: {error}") from None
