"""Bad input of every kind that the port refuses, and the port as the engine that is given it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from parity.cases.case import Case
from parity.cases.files import write_clip
from parity.cases.media import Clip, Noise
from parity.engines.base import Sink
from parity.engines.port import VERSION, port_processor
from parity.engines.refusals.base import Bad, Things
from parity.engines.refusals.checkpoints import CONFIG, SETTINGS, TENSORS_OF_FILES, TIES
from parity.engines.refusals.conversations import CONVERSATIONS, MEDIA
from parity.engines.refusals.tensors import TENSORS
from port import load_model

BAD_INPUTS: Mapping[str, Bad] = {
    f"{part}.{name}": bad
    for part, table in (
        ("conversation", CONVERSATIONS),
        ("media", MEDIA),
        ("tensors", TENSORS),
        ("config", CONFIG),
        ("settings", SETTINGS),
        ("checkpoint", TENSORS_OF_FILES),
        ("tie", TIES),
    )
    for name, bad in table.items()
}


def bad_inputs(case: Case) -> list[str]:
    """Return the names of the bad inputs that a case is about: those of its parts, such as ``tie``."""
    return [name for name in BAD_INPUTS if name.partition(".")[0] in case.bad_input]


class PortRefusals:
    """The port, given the bad inputs ``names``. Its processor and model are loaded for it."""

    name, detail, dtype = "port", VERSION, "float32"

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def refuse(self, sink: Sink) -> None:
        """Send [1] for every kind of bad input that is refused with a message that names the reason, else [0]."""
        with tempfile.TemporaryDirectory(prefix="parity-refusals-") as scratch:
            things = _things(self._folder, Path(scratch))
            for name in self._names:
                sink(f"refused.{name}", torch.tensor([int(BAD_INPUTS[name].refused(things))]))


def _things(folder: Path, scratch: Path) -> Things:
    media = scratch / "media"
    media.mkdir()
    pictures = [media / "wide.png", media / "high.png"]
    for path, picture in zip(pictures, (Noise(96, 64), Noise(64, 128)), strict=True):
        picture.load().save(path)
    clip = write_clip(Clip(6, 64, 64, fps=2.0).load(), media / "clip.mp4")
    processor = port_processor(folder)
    parts = [{"type": "image", "image": path} for path in pictures]
    inputs = processor([[{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]])
    work = scratch / "work"
    work.mkdir()
    return Things(folder, work, processor, load_model(folder), pictures[0], clip, inputs)
