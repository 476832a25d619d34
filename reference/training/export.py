"""Writes a trained model as a checkpoint: bfloat16 safetensors with the published names, and ``training.json``."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from reference.weights import HEAD_NAME, weight_shapes

WEIGHTS = "model.safetensors"
PROVENANCE = "training.json"


def write_weights(model: Any, folder: Path) -> None:
    """Round to bfloat16 and write. Raises ValueError if the model's tensors do not match its config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = weight_shapes(config)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items() if name != HEAD_NAME}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {name: tuple(shape) for name, shape in wanted.items()}:
        differing = sorted(set(found.items()) ^ {(name, tuple(shape)) for name, shape in wanted.items()})
        raise ValueError(f"the trained tensors do not match config.json: {differing[:6]}")
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(rounded, folder / WEIGHTS, metadata={"format": "pt"})


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``training.json``: how the model was trained, the result, and the sha256 of every other file."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != PROVENANCE
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    text = json.dumps({**facts, "versions": versions, "files": files}, indent=2)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")
