"""``parity activations``: compares the activations of trained and seeded checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from parity.cases.case import SeededCheckpoint
from parity.cases.media import PictureFile
from parity.cases.standard import trained_case
from parity.cli.command import finish, here
from parity.diagnosis.activations import measure_activations
from parity.documents.activations import activations_document
from parity.runs.loader import Loader, read_config
from parity.runs.named import named_checkpoint
from reference.trained import trained_checkpoint

_TITLES = {
    "logits_entropy": "entropy of the next token (nats)",
    "top1": "probability of the likeliest token",
    "answer_top1": "... where the answer begins",
    "text_attention": "text attention: entropy (1: even)",
    "text_peak": "text attention: largest weight (x even)",
    "text_outlier": "text stream: largest channel (x rms)",
    "vision_attention": "vision attention: entropy (1: even)",
    "vision_peak": "vision attention: largest weight (x even)",
    "vision_outlier": "vision stream: largest channel (x rms)",
    "text_stream": "text stream: rms after the last layer",
    "vision_stream": "vision stream: rms after the last block",
}


def activations(
    *, models: tuple[str, ...], images: tuple[Path, ...], prompt: str | None, out: Path | None, as_json: bool
) -> int:
    """Measure each checkpoint on one prefill, and also the seeded checkpoint and the trained model."""
    loader = Loader()
    chosen = {
        "seeded": loader.checkpoint(SeededCheckpoint()),
        "trained": trained_checkpoint(),
        **{name: named_checkpoint(name) for name in models},
    }
    case = trained_case()
    if images or prompt is not None:
        case = replace(case, rows=((*map(PictureFile, images), prompt or "What is it?"),))
    found = {}
    for name, folder in chosen.items():
        read_config(folder)
        inputs = loader.inputs(replace(case, name=name), folder)
        found[name] = measure_activations(loader.port(folder, "float32"), inputs)
    document = activations_document(found, environment=here(threads=torch.get_num_threads()))
    return finish(document, lambda console: console.print(_table(document["models"])), as_json=as_json, out=out)


def _table(models: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("activations")
    for name in models:
        table.add_column(name, justify="right")
    for figure, title in _TITLES.items():
        values = [figures[figure] for figures in models.values()]
        table.add_row(title, *("" if value is None else f"{value:.3g}" for value in values))
    return table
