"""``parity chat``: ask the port about pictures and videos, the answer streamed. Needs no transformers."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch

from parity.cli.console import printing
from parity.cli.signals import Terminated
from parity.core.errors import ParityError
from parity.dtypes import DTYPES
from port import GenerationConfig, Inputs, PortError, Processor, Qwen3VL, Step, generate, load_model
from reference.trained import trained_checkpoint

DEFAULT_MAX_NEW_TOKENS = 512
_HELP = "/image PATH or /video PATH adds one to the next question, /clear starts anew, /quit or Ctrl-D ends"


@dataclass(frozen=True)
class ChatOptions:
    """What ``parity chat`` was asked for; a sampling option that is None is the checkpoint's own."""

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


@dataclass
class Answer:
    """One answer with what it cost. ``prefill_seconds`` lasts until the first token."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    vision_tokens: int = 0
    processor_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    ended: bool = False

    def add(self, piece: str) -> Iterator[str]:
        """Take a piece of text in, and pass it on unless it is empty."""
        self.text += piece
        if piece:
            yield piece

    def speed(self) -> str:
        """One line: how much was read and written, and how fast."""
        read = f"{self.prompt_tokens} prompt tokens ({self.vision_tokens} of pictures and videos)"
        prefill = f"{read} in {self.prefill_seconds:.2f} s: {_rate(self.prompt_tokens, self.prefill_seconds)}"
        later = len(self.tokens) - 1
        decode = f"{len(self.tokens)} new tokens, {_rate(later, self.decode_seconds)}" if later > 0 else "1 new token"
        cut = "" if self.ended else ", cut off by --max-new-tokens"
        return f"processor {self.processor_seconds:.2f} s; {prefill}; {decode}{cut}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Answer.__dataclass_fields__}


class Chat:
    """A conversation with one model. The whole of it is read again for every question."""

    def __init__(
        self,
        model: Qwen3VL,
        processor: Processor,
        config: GenerationConfig,
        *,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        self.model, self.processor, self.config, self.seed, self.chunk = model, processor, config, seed, chunk
        self.messages: list[dict[str, Any]] = []

    def ask(self, content: Sequence[dict[str, Any]], answer: Answer) -> Iterator[str]:
        """Yield the answer's text as it comes; ``answer`` is filled on the way."""
        start = time.perf_counter()
        inputs = self.processor([[*self.messages, {"role": "user", "content": list(content)}]])
        answer.processor_seconds = time.perf_counter() - start
        answer.prompt_tokens, answer.vision_tokens = inputs.input_ids.shape[1], self._vision_tokens(inputs)
        stream = self.processor.tokenizer.stream()
        for step, seconds in _timed(generate(self.model, inputs, self.config, chunk=self.chunk, seed=self.seed)):
            if answer.tokens:
                answer.decode_seconds += seconds
            else:
                answer.prefill_seconds = seconds
            (token,) = step.tokens
            assert token is not None, "one row: the loop ends when it does"
            answer.tokens.append(token)
            answer.ended = token in self.config.eos_token_ids
            yield from answer.add(stream.push(token))
        # Bytes at the end that make no whole character.
        whole = self.processor.decode(answer.tokens)
        if whole.startswith(answer.text):
            yield from answer.add(whole.removeprefix(answer.text))

    def remember(self, content: Sequence[dict[str, Any]], answer: Answer) -> None:
        """Make a question and its answer, whole or interrupted, part of the conversation."""
        self.messages += [
            {"role": "user", "content": list(content)},
            {"role": "assistant", "content": [{"type": "text", "text": answer.text}]},
        ]

    def _vision_tokens(self, inputs: Inputs) -> int:
        config = self.model.config
        return int(torch.isin(inputs.input_ids, torch.tensor([config.image_token_id, config.video_token_id])).sum())


def chat(options: ChatOptions) -> int:
    """Carry the command out."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.as_json and options.prompt is None:
        raise ParityError("--json answers one question; give --prompt")
    folder = _folder(options.model)
    talk = Chat(
        load_model(folder, dtype=DTYPES[options.dtype]),
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
    """The checkpoint's settings with what the user gave in their place; any sampling option turns sampling on."""
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
    answer = Answer()
    if not as_json:
        _show(talk, content, answer)
        return
    for _ in talk.ask(content, answer):
        pass
    click.echo(json.dumps(answer.to_json()))


def _interactive(talk: Chat, media: list[dict[str, Any]]) -> None:
    """Questions from the terminal, one a line, until Ctrl-D. Bad input is said and forgotten."""
    with suppress(ImportError):
        import readline  # noqa: F401  # input() then edits lines and remembers them
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
    """The next line of the terminal; None at its end."""
    try:
        if sys.stdin.isatty():
            return input("> ").strip()
        line = sys.stdin.readline()
    except (EOFError, UnicodeDecodeError):
        return None
    return line.strip() if line else None


def _answered(talk: Chat, media: list[dict[str, Any]], line: str) -> list[dict[str, Any]]:
    """Answer one line; the media that still wait for a question. Ctrl-C ends the answer, not the chat."""
    content = [*media, {"type": "text", "text": line}]
    answer = Answer()
    try:
        _show(talk, content, answer)
    except PortError as error:
        lost = f" (without it go {len(media)} pictures and videos; add the good ones again)" if media else ""
        _complain(f"{error}{lost}")
        return []
    except Terminated:
        raise
    except KeyboardInterrupt:
        if not answer.tokens:
            return media
    talk.remember(content, answer)
    return []


def _show(talk: Chat, content: Sequence[dict[str, Any]], answer: Answer) -> None:
    """Print an answer while it comes, then its speed. The line is ended also where the answer is interrupted."""
    try:
        for piece in talk.ask(content, answer):
            click.echo(harmless(piece), nl=False)
            sys.stdout.flush()
    finally:
        if answer.tokens:
            click.echo()
    click.echo(answer.speed(), err=True)


def harmless(text: str) -> str:
    """Text without the characters by which a model could control the terminal."""
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)


def _complain(message: str) -> None:
    click.echo(f"parity: {message}", err=True)


def _folder(model: str | None) -> Path:
    """The checkpoint's folder: the trained one that ships, the named one, or a snapshot from the hub."""
    if model is None:
        return trained_checkpoint()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    from reference.errors import ReferenceModelError
    from reference.hub import checkpoint_folder  # needs the hub's client, but no transformers

    try:
        return checkpoint_folder(model)
    except ReferenceModelError as error:
        raise ParityError(str(error).splitlines()[0].rstrip(".")) from error


def _timed(steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """Each step with the seconds that it took, without those of whoever shows it."""
    while True:
        start = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        yield step, time.perf_counter() - start


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s" if seconds > 0 else "too fast to measure"
