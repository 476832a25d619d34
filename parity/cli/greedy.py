"""``parity greedy``: the port's greedy tokens beside those of mistral.rs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from parity.cli import console as view
from parity.core.verdict import Verdict
from parity.qwen3vl.cases import SeededCheckpoint
from parity.qwen3vl.greedy import compare_greedy
from parity.qwen3vl.media import PictureFile
from parity.qwen3vl.workbench import Workbench, named_checkpoint, read_config


def greedy(*, model: str | None, prompt: str, images: tuple[Path, ...], steps: int, as_json: bool) -> int:
    """Carry the command out; PARITY when the prompts are as long and every token is the same."""
    bench = Workbench()
    folder = bench.checkpoint(SeededCheckpoint()) if model is None else named_checkpoint(model)
    read_config(folder)
    for path in images:
        PictureFile(path).load()  # said here in our words, and before the engine starts
    found = compare_greedy(folder, prompt, images=list(images), steps=steps, bench=bench)
    verdict = Verdict.PARITY if found.same else Verdict.DIVERGED
    document = {
        "engine": f"mistral.rs {found.answer.version}",
        "prompt_tokens": {"port": found.prompt_tokens, "engine": found.answer.prompt_tokens},
        "tokens": {"port": found.port_tokens, "engine": found.engine_tokens},
        "largest_logprob_difference": max(found.logprob_differences),
        "verdict": verdict.name,
    }
    with view.printing() as console:
        if as_json:
            click.echo(json.dumps(document))
            return verdict.exit_code
        console.print(f"prompt tokens: port {found.prompt_tokens}, mistral.rs {found.answer.prompt_tokens}")
        console.print(f"port        {found.port_tokens}", soft_wrap=True)
        console.print(f"mistral.rs  {found.engine_tokens}", soft_wrap=True)
        console.print(f"largest difference in log-probability: {max(found.logprob_differences):.2e}")
        console.print(f"{view.coloured(verdict.name)}  port against mistral.rs {found.answer.version}, {steps} tokens")
    return verdict.exit_code
