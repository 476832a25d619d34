"""What the port's processor makes of pictures and videos, kept for many runs with mistakes planted.

A mistake changes nothing before the seam at which it is made. So files are decoded and pictures are resized once, and
a run with a mistake goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

import port.pixels
import port.processor
from parity.mutants.base import Mutant, around, seam_pattern
from parity.mutants.mistakes.kept import KEEPS_FILES
from parity.seams.processor import IDS, IMAGE_GRID, MASK, PICTURE_SEAMS, VIDEO_GRID, VIDEO_SEAMS
from port.pixels import Patches
from port.tap import Tap
from port.video import Frames

_PICTURES, _VIDEOS = "processor.images.{}.", "processor.videos.{}."
# In the order of the computation. A grid is made together with the patches.
_ORDER = [spec.name for spec in (*PICTURE_SEAMS, *VIDEO_SEAMS)]
_MADE_WITH = {IMAGE_GRID.name: _PICTURES + "patches", VIDEO_GRID.name: _VIDEOS + "patches"}
Wrapper = Callable[..., Any]


@dataclass
class KeptMedia:
    """Files by their paths, and what was made of them by the prefix of their seams, such as ``processor.images.0.``."""

    files: dict[str, np.ndarray | Frames] = field(default_factory=dict)
    resized: dict[str, Tensor] = field(default_factory=dict)
    patches: dict[str, Patches] = field(default_factory=dict)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what the port makes inside the block."""

        def load(original: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            self.files[str(file)] = found = original(file, *args, **kwargs)
            return found

        def process(original: Callable[..., Patches], pixels: np.ndarray, config: Any, tap: Tap) -> Patches:
            def resize(resize_bicubic: Callable[..., Tensor], *args: Any) -> Tensor:
                self.resized[tap.prefix] = found = resize_bicubic(*args)
                return found

            with around(port.pixels, "resize_bicubic", resize):
                self.patches[tap.prefix] = made = original(pixels, config, tap)
            return made

        with _around_both(load, process):
            yield

    @contextmanager
    def replaying(self, mutants: Sequence[Mutant]) -> Iterator[None]:
        """Give back what was kept, up to where the mistakes are made. They are to be planted inside the block."""
        kept = replayed(mutants)

        def load(original: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            found = self.files.get(str(file))
            if isinstance(found, Frames) and _VIDEOS + "decoded" in kept:
                return replace(found, frames=found.frames.copy())
            if isinstance(found, np.ndarray) and _PICTURES + "decoded" in kept:
                return found.copy()
            return original(file, *args, **kwargs)

        def process(original: Callable[..., Patches], pixels: np.ndarray, config: Any, tap: Tap) -> Patches:
            of_kind = _PICTURES if ".images." in tap.prefix else _VIDEOS
            if tap.prefix not in self.patches or of_kind + "resized" not in kept:
                return original(pixels, config, tap)
            if of_kind + "patches" in kept:
                made = self.patches[tap.prefix]
                tap("resized", self.resized[tap.prefix].clone())
                return Patches(tap("patches", made.pixel_values.clone()), made.grid_thw)
            with around(port.pixels, "resize_bicubic", lambda *_: self.resized[tap.prefix].clone()):
                return original(pixels, config, tap)

        with _around_both(load, process):
            yield


def replayed(mutants: Sequence[Mutant]) -> frozenset[str]:
    """Return the seams, with ``{}`` for a number, whose values are given back: those before any of the mistakes.

    A mistake that keeps files needs the requests before, whose files have the same names: all is processed anew.
    """
    if not mutants or keeps_files(mutants):
        return frozenset()
    kept = set(_ORDER[: min(_first(mutant) for mutant in mutants)])
    kept.discard(_VIDEOS + "timestamps")  # they are made anew, from the indices of the frames
    if _VIDEOS + "decoded" not in kept:  # a video's file is read as a whole
        kept.discard(_VIDEOS + "frame_indices")
    return frozenset(kept)


def keeps_files(mutants: Sequence[Mutant]) -> bool:
    """Whether any of the mistakes keeps something of the files of one request for another."""
    return any(mutant.component == KEEPS_FILES for mutant in mutants)


def _first(mutant: Mutant) -> int:
    """Return the place of the earliest seam that a mistake may change."""
    pattern = seam_pattern(mutant.seam)
    places = [at for at, name in enumerate(_ORDER) if pattern.fullmatch(name.format(0))]
    places += [_ORDER.index(other) for name, other in _MADE_WITH.items() if pattern.fullmatch(name)]
    places += [len(_ORDER) for spec in (IDS, MASK) if pattern.fullmatch(spec.name)]
    return min(places, default=0)


@contextmanager
def _around_both(load: Wrapper, process: Wrapper) -> Iterator[None]:
    """Wrap the functions that read a file, and those that process what was read."""
    with ExitStack() as stack:
        for kind in ("picture", "video"):
            stack.enter_context(around(port.processor, f"load_{kind}", load))
            stack.enter_context(around(port.processor, f"process_{kind}", process))
        yield
