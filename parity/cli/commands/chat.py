"""``parity chat``: asks the port about pictures and videos, and streams the answer. Needs no transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from parity.answers.chat import Chat, ChatAnswer
from parity.cli.console import harmless, printing
from parity.cli.signals import Terminated
from parity.core.errors import ParityError
from parity.engines.device import use_device
from parity.engines.dtypes import DTYPES
from port import GenerationConfig, PortError, Processor, load_model
from reference.trained import trained_checkpoint

DEFAULT_MAX_NEW_TOKENS = 512
_HELP = "/image PATH or /video PATH adds a file to the next question, /clear starts a new chat, /quit or Ctrl-D ends"


@dataclass(frozen=True)
class ChatOptions:
    """The options of ``parity chat``. A sampling option that is None is taken from the checkpoint."""

    model: str | None
    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    prompt: str | None
    max_new_tokens: int | None
    greedy: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    seed: int
    chunk: int | None
    dtype: str
    threads: int | None
    as_json: bool
    device: str = "cpu"


def chat(options: ChatOptions) -> int:
    """Run the command."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.as_json and options.prompt is None:
        raise ParityError("--json answers one question; give --prompt")
    device = use_device(options.device, options.dtype)
    folder = _folder(options.model)
    talk = Chat(
        load_model(folder, dtype=DTYPES[options.dtype], device=device),
        Processor.load(folder),
        chosen_config(GenerationConfig.from_folder(folder), options),
        seed=options.seed,
        chunk=options.chunk,
    )
    media = [
        *({"type": "image", "image": path} for path in options.images),
        *({"type": "video", "video": path} for path in options.videos),
    ]
    with printing():
        if options.prompt is None:
            _interactive(talk, media)
        else:
            _once(talk, [*media, {"type": "text", "text": options.prompt}], as_json=options.as_json)
    return 0


def chosen_config(own: GenerationConfig, options: ChatOptions) -> GenerationConfig:
    """Return the checkpoint's settings, replaced by the user's options. Any sampling option turns sampling on."""
    given = {
        name: value
        for name in ("temperature", "top_k", "top_p", "repetition_penalty")
        if (value := getattr(options, name)) is not None
    }
    sampling = given.keys() - {"repetition_penalty"}
    if options.greedy and sampling:
        raise ParityError(f"--greedy takes no --{sorted(sampling)[0].replace('_', '-')}; leave one of them out")
    sample = False if options.greedy else own.do_sample or bool(sampling)
    most = options.max_new_tokens or own.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return replace(own, do_sample=sample, max_new_tokens=most, **given)


def _once(talk: Chat, content: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    answer = ChatAnswer()
    if not as_json:
        _show(talk, content, answer)
        return
    for _ in talk.ask(content, answer):
        pass
    click.echo(json.dumps(answer.to_json()))


def _interactive(talk: Chat, media: list[dict[str, Any]]) -> None:
    """Answer questions from the terminal, one per line, until Ctrl-D. After bad input, the chat goes on."""
    with suppress(ImportError):
        import readline  # noqa: F401  # gives input() line editing and a history
    click.echo(_HELP, err=True)
    while (line := _line()) not in (None, "/quit", "/exit"):
        command, _, rest = line.partition(" ")
        if command == "/clear":
            talk.messages, media = [], []
        elif command in ("/image", "/video") and rest.strip():
            kind, path = command[1:], Path(rest.strip()).expanduser()
            if path.exists():
                media.append({"type": kind, kind: path})
            else:
                _complain(f"there is no {path}")
        elif line.startswith("/"):
            click.echo(_HELP, err=True)
        elif line:
            media = _answered(talk, media, line)


def _line() -> str | None:
    """Read the next line from the terminal; None at its end."""
    try:
        if sys.stdin.isatty():
            return input("> ").strip()
        line = sys.stdin.readline()
    except (EOFError, UnicodeDecodeError):
        return None
    return line.strip() if line else None


def _answered(talk: Chat, media: list[dict[str, Any]], line: str) -> list[dict[str, Any]]:
    """Answer one line. Returns the media that still wait for a question. Ctrl-C ends the answer, not the chat."""
    content = [*media, {"type": "text", "text": line}]
    answer = ChatAnswer()
    try:
        _show(talk, content, answer)
    except PortError as error:
        lost = f" ({len(media)} pictures and videos are dropped with it; add the good ones again)" if media else ""
        _complain(f"{error}{lost}")
        return []
    except Terminated:
        raise
    except KeyboardInterrupt:
        if not answer.tokens:
            return media
    talk.remember(content, answer)
    return []


def _show(talk: Chat, content: Sequence[dict[str, Any]], answer: ChatAnswer) -> None:
    """Print an answer while it is generated, then its speed. An interrupted answer also ends with a newline."""
    try:
        for piece in talk.ask(content, answer):
            click.echo(harmless(piece), nl=False)
            sys.stdout.flush()
    finally:
        if answer.tokens:
            click.echo()
    click.echo(answer.speed(), err=True)


def _complain(message: str) -> None:
    click.echo(f"parity: {harmless(message)}", err=True)


def _folder(model: str | None) -> Path:
    """Return the folder of the trained model, of the named checkpoint, or of a snapshot from the hub."""
    if model is None:
        return trained_checkpoint()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from reference.errors import ReferenceModelError
    from reference.hub import checkpoint_folder  # needs huggingface_hub, but no transformers

    try:
        return checkpoint_folder(model)
    except ReferenceModelError as error:
        raise ParityError(str(error).splitlines()[0].rstrip(".")) from error
