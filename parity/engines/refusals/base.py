"""What bad input is made of, and what a refusal is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from port import Inputs, PortError, Processor, Qwen3VL


@dataclass(frozen=True)
class Things:
    """Sound things, of which one is made bad: a checkpoint's folder, its processor and model, media, inputs.

    ``scratch`` is an empty folder. The inputs are of one prompt with two pictures of unequal grids.
    """

    folder: Path
    scratch: Path
    processor: Processor
    model: Qwen3VL
    picture: Path
    clip: Path
    inputs: Inputs

    def asked(self, *parts: Any, **options: Any) -> Inputs:
        """Ask the processor with one user's turn; a string stands for a text."""
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        return self.processor([[{"role": "user", "content": content}]], **options)

    def shown(self, picture: Any) -> Inputs:
        """Ask the processor about a picture."""
        return self.asked({"type": "image", "image": picture}, "?")

    def played(self, video: Any, **part: Any) -> Inputs:
        """Ask the processor about a video."""
        return self.asked({"type": "video", "video": video, **part}, "?")

    @torch.no_grad()
    def fed(self, **changed: Any) -> Any:
        """Prefill the model with other inputs."""
        inputs = replace(self.inputs, **changed)
        return self.model.prefill(inputs, self.model.new_cache(*inputs.input_ids.shape))


@dataclass(frozen=True)
class Bad:
    """A kind of bad input: what the message must say, and how the port is given it."""

    said: str
    give: Callable[[Things], object]

    def refused(self, things: Things) -> bool:
        """Whether the port refuses it with one of its own errors, whose message says what is wrong."""
        try:
            self.give(things)
        except PortError as error:
            return self.said in str(error)
        except Exception:  # the port broke down, which is no refusal
            return False
        return False
