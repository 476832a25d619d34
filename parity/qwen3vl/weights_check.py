"""The weights themselves: every tensor of a checkpoint used once, bit for bit, and the patch embedding's accessor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from parity.core.compare import Comparison
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE
from parity.core.trace import Description, Entry, MemoryTrace, SeamKey, dtype_name
from parity.core.verdict import judge
from parity.qwen3vl.recorder import to_numpy
from parity.qwen3vl.run import RunResult
from port import PortError, Qwen3VL, load_model
from port.weights import LM_HEAD, checkpoint_name, published_name
from reference.model import ReferenceModel

CONV = "model.visual.patch_embed.proj.weight"
CONV_OUTPUT = SeamKey("vision.patch_embed.proj", 0)


def check_weights(folder: Path, dtype: str, reference: ReferenceModel) -> RunResult:
    """Compare what the port holds with the files and with ``torch.nn.Conv3d``.

    The port is loaded at the checkpoint's own dtype. Findings: one exact one per tensor of the files (the patch
    embedding through ``Conv3dNoBias.weight()``, a redundant ``lm_head.weight`` through the tied matrix), and the
    convolution's output on random patches against Conv3d in both of the reference's orders of addition.
    """
    torch_dtype = getattr(torch, dtype)
    trace = MemoryTrace(Description("checkpoint files", str(folder.name), dtype, "weights"))
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                array = to_numpy(file.get_tensor(key))
                trace.add(_exact_entry(published_name(key), array), array)
    try:
        model = load_model(folder, dtype=torch_dtype)
    except PortError as error:
        findings = Comparison(trace, Floors(trace), DEFAULT_GATE).findings(
            why_missing=f"the port did not load: {error}"
        )
        return RunResult(findings, judge(findings, subject_error=str(error)), DEFAULT_GATE, str(error))
    held = tensors_of(model)
    patches = _random_patches(model, torch_dtype)
    floors = Floors(trace)
    _add_convolution(trace, floors, patches, reference)
    comparison = Comparison(trace, floors, DEFAULT_GATE)
    for name, tensor in held.items():
        if name != LM_HEAD or not model.config.tie_word_embeddings or SeamKey(name, 0) in trace.entries():
            comparison.judge(SeamKey(name, 0), to_numpy(tensor))
    with torch.no_grad():
        comparison.judge(CONV_OUTPUT, to_numpy(model.model.visual.patch_embed.proj(patches).flatten(1)))
    findings = comparison.findings()
    return RunResult(findings, judge(findings), DEFAULT_GATE)


def tensors_of(model: Qwen3VL) -> dict[str, torch.Tensor]:
    """The port's tensors under their checkpoint names and in their checkpoint shapes."""
    tensors: dict[str, torch.Tensor] = {
        checkpoint_name(name): parameter for name, parameter in model.named_parameters()
    }
    tensors[CONV] = model.model.visual.patch_embed.proj.weight()
    tensors[LM_HEAD] = model.output_weight()
    return tensors


def _random_patches(model: Qwen3VL, dtype: torch.dtype) -> torch.Tensor:
    config = model.config.vision
    shape = (64, config.in_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(dtype)


@torch.no_grad()
def _add_convolution(trace: MemoryTrace, floors: Floors, patches: torch.Tensor, reference: ReferenceModel) -> None:
    """Conv3d's output as the yardstick; the same sum over frames, one convolution each, makes the floor."""
    conv: nn.Conv3d = reference.model.model.visual.patch_embed.proj
    weight = conv.weight.to(patches.dtype)
    whole = nn.functional.conv3d(patches, weight, stride=conv.stride).flatten(1)
    frames = [nn.functional.conv2d(patches[:, :, t], weight[:, :, t]).flatten(1) for t in range(weight.shape[2])]
    array = to_numpy(whole)
    entry = Entry(
        key=CONV_OUTPUT,
        step="weights",
        group="vision",
        gate="float",
        shape=array.shape,
        dtype=dtype_name(array),
        token_axes=(0,),
        axis_names=("patch",),
    )
    trace.add(entry, array)
    floors.observe(entry, to_numpy(torch.stack(frames).sum(dim=0)))


def _exact_entry(name: str, array: np.ndarray) -> Entry:
    return Entry(
        key=SeamKey(name, 0),
        step="weights",
        group="weights",
        gate="exact",
        shape=array.shape,
        dtype=dtype_name(array),
        token_axes=(0,),
        axis_names=("row",),
    )
