"""``parity greedy``: compares the port's greedy tokens with those of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from parity.answers.tokens import compare_tokens
from parity.cases.case import SeededCheckpoint
from parity.cases.media import PictureFile
from parity.cli import console as view
from parity.cli.command import finish, here
from parity.documents.tokens import tokens_document
from parity.engines.registry import engine
from parity.runs.loader import Loader, read_config
from parity.runs.named import named_checkpoint


def greedy(
    *,
    model: str | None,
    prompt: str,
    images: tuple[Path, ...],
    steps: int,
    name: str,
    out: Path | None,
    as_json: bool,
) -> int:
    """Run the command. Returns the exit code of the verdict."""
    loader = Loader()
    folder = loader.checkpoint(SeededCheckpoint()) if model is None else named_checkpoint(model)
    read_config(folder)
    for path in images:
        PictureFile(path).load()  # a bad picture is reported before the engine starts
    found = compare_tokens(engine(name), folder, prompt, images=list(images), steps=steps, loader=loader)
    document = tokens_document(found, environment=here(threads=torch.get_num_threads()))
    return finish(document, lambda console: _show(console, document), as_json=as_json, out=out)


def _show(console: Console, document: dict[str, Any]) -> None:
    engine_title, prompts, tokens = document["engine"], document["prompt_tokens"], document["tokens"]
    width = max(len(engine_title), len("port"))
    console.print(f"prompt tokens: port {prompts['port']}, {engine_title} {prompts['engine']}")
    console.print(f"{'port':{width}}  {tokens['port']}", soft_wrap=True)
    console.print(f"{engine_title:{width}}  {tokens['engine']}", soft_wrap=True)
    difference = document["largest_logprob_difference"]
    if difference is not None:
        console.print(f"largest difference in log-probability: {difference:.2e}")
    console.print(view.verdict_line(document["verdict"]), soft_wrap=True)
