"""Bad input of every kind that the port refuses, and the port as the engine that is given it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from parity.cases.files import write_clip
from parity.cases.media import Clip, Noise
from parity.engines.base import Sink
from parity.engines.port import VERSION, port_processor
from parity.engines.refusals.base import Bad, Things
from parity.engines.refusals.checkpoints import CONFIG, SETTINGS, TENSORS_OF_FILES
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
    )
    for name, bad in table.items()
}


class PortRefusals:
    """The port, given bad input. Its processor and model are loaded for it."""

    name, detail, dtype = "port", VERSION, "float32"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def refuse(self, sink: Sink) -> None:
        """Send [1] for every kind of bad input that is refused with a message that names the reason, else [0]."""
        with tempfile.TemporaryDirectory(prefix="parity-refusals-") as scratch:
            things = _things(self._folder, Path(scratch))
            for name, bad in BAD_INPUTS.items():
                sink(f"refused.{name}", torch.tensor([int(bad.refused(things))]))


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
