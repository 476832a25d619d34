"""The seams of the weights stage: every tensor of a checkpoint, and the patch embedding's convolution."""

from __future__ import annotations

from collections.abc import Iterable

from parity.core.trace import SeamKey
from parity.seams.spec import Expected, SeamSpec

STEP = "weights"
CONVOLUTION = SeamSpec("vision.patch_embed.proj", ("patch", "channel"), "torch.nn.Conv3d", "vision")


def expected_weight_seams(names: Iterable[str]) -> list[Expected]:
    """Return an exact value for each tensor of the checkpoint, then the convolution's output."""
    tensors = (SeamSpec(name, ("row",), "the checkpoint's files", "weights", "exact") for name in names)
    return [Expected(SeamKey(spec.name, 0), spec, STEP, None) for spec in (*tensors, CONVOLUTION)]
