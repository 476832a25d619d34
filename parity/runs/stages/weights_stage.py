"""The weights stage: every tensor of a checkpoint, compared bit for bit, and the patch embedding's convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from parity.core.floors import Floors
from parity.core.trace import Description, MemoryTrace, SeamKey
from parity.engines.base import Engine, Sink
from parity.engines.dtypes import DTYPES
from parity.runs.recorder import to_numpy
from parity.runs.stages.stage import Stage
from parity.runs.store import entry_of
from parity.runs.yardstick import Yardstick
from parity.seams.weights import CONVOLUTION, expected_weight_seams
from reference.model import ReferenceModel
from reference.weights import HEAD_NAME, published_name


class WeightsSubject(Engine, Protocol):
    """A subject's tensors."""

    def send(self, patches: Tensor, sink: Sink, *, head: bool) -> None:
        """Send every tensor with its checkpoint name, then the patch embedding's convolution of ``patches``.

        ``patches`` are (N, C, T, P, P). With ``head``, a tied model also sends its matrix as ``lm_head.weight``.
        """
        ...


def weights_stage(case: str, folder: Path, dtype: str, reference: ReferenceModel, config: dict[str, Any]) -> Stage[Any]:
    """Compare a subject's tensors with the files, and its convolution with ``torch.nn.Conv3d``.

    There is one exact value for each tensor of the files (for the patch embedding from ``Conv3dNoBias.weight()``, for a
    redundant ``lm_head.weight`` from the tied matrix), and the convolution's output on random patches. Its floor comes
    from the same sum in another order of addition: one 2-D convolution per frame.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors handle is not a mapping
                arrays[published_name(key)] = to_numpy(file.get_tensor(key))
    expected = expected_weight_seams(arrays)
    patches = _random_patches(config["vision_config"], dtype)
    whole, frames = _convolved(patches, reference)
    trace = MemoryTrace(Description("checkpoint files", folder.name, dtype, case))
    for item in expected:
        array = arrays.get(item.key.name, whole)
        trace.add(entry_of(item, array), array)
    floors = Floors(trace)
    floors.observe(trace.entries()[SeamKey(CONVOLUTION.name, 0)], frames)

    def run(subject: WeightsSubject, sink: Sink) -> None:
        subject.send(patches, sink, head=HEAD_NAME in arrays)

    return Stage[Any](
        name="weights",
        case=case,
        expected=expected,
        labels=dict,
        yardstick=Yardstick(trace=trace, floors=floors, runs=["the same sum, one 2-D convolution per frame"]),
        run=run,
    )


def _random_patches(vision: dict[str, Any], dtype: str) -> Tensor:
    """Return random patches (64, C, T, P, P) in [-1, 1]."""
    side = vision["patch_size"]
    shape = (64, vision["in_channels"], vision["temporal_patch_size"], side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(DTYPES[dtype])


@torch.no_grad()
def _convolved(patches: Tensor, reference: ReferenceModel) -> tuple[np.ndarray, np.ndarray]:
    """Return Conv3d's output (64, C'), and the sum of one 2-D convolution per frame."""
    conv: nn.Conv3d = reference.model.model.visual.patch_embed.proj
    patches = patches.to(conv.weight.device)
    weight = conv.weight.to(patches.dtype)
    whole = nn.functional.conv3d(patches, weight, stride=conv.stride).flatten(1)
    frames = [nn.functional.conv2d(patches[:, :, t], weight[:, :, t]).flatten(1) for t in range(weight.shape[2])]
    return to_numpy(whole), to_numpy(torch.stack(frames).sum(dim=0))
