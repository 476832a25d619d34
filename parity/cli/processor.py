"""``parity processor``: the port's processor beside the reference's on the user's own files, values and speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich import box
from rich.table import Table

from parity.cli import console as view
from parity.core.compare import Finding
from parity.core.errors import ParityError
from parity.core.verdict import judge
from parity.qwen3vl.cases import SeededCheckpoint
from parity.qwen3vl.front import judge_front
from parity.qwen3vl.inputs import prepare_inputs
from parity.qwen3vl.media import PictureFile, Source, VideoFile
from parity.qwen3vl.processor_perf import Throughput, measure_throughput
from parity.qwen3vl.workbench import Workbench, named_checkpoint, read_config
from parity.results import finding_json, verdict_json


def processor(
    *,
    model: str | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Carry the command out; the exit code is that of the verdict over all files."""
    sources: list[Source] = [*map(PictureFile, images), *map(VideoFile, videos)]
    if not sources:
        raise ParityError("there is nothing to process; give --image or --video")
    if threads:
        torch.set_num_threads(threads)
    bench = Workbench()
    folder = bench.checkpoint(SeededCheckpoint()) if model is None else named_checkpoint(model)
    config, reference = read_config(folder), bench.processor(folder, "float32")
    subject = bench.port_front(folder)
    findings: list[Finding] = []
    speeds: list[Throughput] = []
    error = None
    with view.steps(2 * len(sources), quiet=as_json) as step:
        for source in sources:
            title = source.title if not isinstance(source, str) else source
            step(f"{title}: values")
            inputs = prepare_inputs(title, ((source, "What is it?"),), processor=reference, config=config, fit=False)
            found = judge_front(inputs.front, subject)
            findings += found.findings
            error = error or found.error
            step(f"{title}: speed")
            if rounds and found.error is None:
                material = inputs.front.material
                speeds.append(measure_throughput(title, material, subject.processor, reference, rounds=rounds))
    judgement = judge(findings, subject_error=error)
    with view.printing() as console:
        if as_json:
            document = {
                "verdict": verdict_json(judgement),
                "findings": [finding_json(index, finding) for index, finding in enumerate(findings)],
                "throughput": [asdict(speed) for speed in speeds],
                "threads": torch.get_num_threads(),
            }
            click.echo(json.dumps(document, allow_nan=False))
            return judgement.verdict.exit_code
        listed = [finding_json(index, finding) for index, finding in enumerate(findings)]
        console.print(view.findings_table(listed, first=judgement.first_divergence, every=True))
        if speeds:
            console.print(speed_table(speeds))
        console.print(view.verdict_line(verdict_json(judgement)), soft_wrap=True)
    return judgement.verdict.exit_code


def speed_table(speeds: Sequence[Throughput]) -> Table:
    """One line a file; above 1 the port is the faster."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("file to tensors (median)", "port", "reference", "reference / port", "rounds"):
        table.add_column(name, justify="left" if name.startswith("file") else "right", no_wrap=True)
    for speed in speeds:
        cells: list[Any] = [f"{speed.port_seconds * 1e3:.1f} ms", f"{speed.reference_seconds * 1e3:.1f} ms"]
        table.add_row(view.plain(speed.title), *cells, f"{speed.ratio:.2f}", str(speed.rounds))
    return table
