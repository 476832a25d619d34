"""``parity activations``: how the activations of checkpoints differ, trained from seeded."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import click
from rich import box
from rich.table import Table

from parity.cli import console as view
from parity.qwen3vl.activations import Activations, measure_activations
from parity.qwen3vl.cases import Row, SeededCheckpoint, seeing_case
from parity.qwen3vl.inputs import prepare_inputs
from parity.qwen3vl.media import PictureFile
from parity.qwen3vl.workbench import Workbench, named_checkpoint, read_config
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


def activations(*, models: tuple[str, ...], images: tuple[Path, ...], prompt: str | None, as_json: bool) -> int:
    """Measure each checkpoint on one prefill, and the seeded one beside them."""
    bench = Workbench()
    chosen = {
        "seeded": bench.checkpoint(SeededCheckpoint()),
        "trained": trained_checkpoint(),
        **{name: named_checkpoint(name) for name in models},
    }
    rows: tuple[Row, ...] = seeing_case().rows
    if images or prompt is not None:
        rows = ((*map(PictureFile, images), prompt or "What is it?"),)
    found: dict[str, Activations] = {}
    for name, folder in chosen.items():
        inputs = prepare_inputs(name, rows, processor=bench.processor(folder, "float32"), config=read_config(folder))
        found[name] = measure_activations(bench.port(folder, "float32"), inputs)
    with view.printing() as console:
        if as_json:
            click.echo(json.dumps({name: asdict(figures) for name, figures in found.items()}))
        else:
            console.print(_table(found))
    return 0


def _table(found: dict[str, Activations]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("activations")
    for name in found:
        table.add_column(name, justify="right")
    for field in fields(Activations):
        values = [getattr(figures, field.name) for figures in found.values()]
        table.add_row(_TITLES[field.name], *("" if value is None else f"{value:.3g}" for value in values))
    return table
