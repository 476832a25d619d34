"""``parity processor``: compares the processors of port and reference on the user's files: values and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from parity.bench.processor import Throughput, measure_throughput
from parity.cases.case import Case, SeededCheckpoint
from parity.cases.media import Picture, PictureFile, Video, VideoFile
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.cli.progress import progress_bar
from parity.documents.processor import processor_document
from parity.runs.case_run import Result
from parity.runs.inputs import prepare_inputs
from parity.runs.loader import Loader, read_config
from parity.runs.named import named_checkpoint
from parity.runs.stages.stage import StageResult, judge_stage


def processor(
    *,
    model: str | None,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    rounds: int,
    out: Path | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Run the command. Returns the exit code of the verdict over all files."""
    sources: list[Picture | Video] = [*map(PictureFile, images), *map(VideoFile, videos)]
    if threads:
        torch.set_num_threads(threads)
    loader = Loader()
    folder = loader.checkpoint(SeededCheckpoint()) if model is None else named_checkpoint(model)
    config, reference = read_config(folder), loader.processor(folder)
    subject = loader.port_processor(folder)
    results: list[StageResult] = []
    speeds: list[Throughput] = []
    with progress_bar(2 * len(sources), quiet=as_json) as step:
        for source in sources:
            step(f"{source.title}: values")
            case = Case(source.title, source.title, 1, rows=((source, "What is it?"),), stages=("processor",))
            stage = prepare_inputs(case, processor=reference, config=config).processed
            results.append(judge_stage(stage, subject))
            step(f"{source.title}: speed")
            if rounds and results[-1].error is None:
                speeds.append(
                    measure_throughput(source.title, stage.batch, subject.processor, reference, rounds=rounds)
                )
    document = processor_document(
        Result.of(results),
        speeds,
        files=[source.title for source in sources],
        threads=torch.get_num_threads(),
        environment=here(threads=torch.get_num_threads()),
    )
    return finish(document, lambda console: _show(console, document), as_json=as_json, out=out)


def _show(console: Console, document: dict[str, Any]) -> None:
    verdict = document["verdict"]
    console.print(view.findings_table(document["findings"], first=verdict["first_divergence"], every=True))
    if document["throughput"]:
        console.print(_speed_table(document["throughput"]))
    console.print(view.verdict_line(verdict), soft_wrap=True)


def _speed_table(speeds: list[dict[str, Any]]) -> Table:
    """Make a table with a line for each file. With a ratio above 1, the port is faster."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("file to tensors (median)", "port", "reference", "reference / port", "rounds"):
        table.add_column(name, justify="left" if name.startswith("file") else "right", no_wrap=True)
    for speed in speeds:
        table.add_row(
            view.plain(speed["title"]),
            f"{speed['port_seconds'] * 1e3:.1f} ms",
            f"{speed['reference_seconds'] * 1e3:.1f} ms",
            f"{speed['ratio']:.2f}",
            str(speed["rounds"]),
        )
    return table
