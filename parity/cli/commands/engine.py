"""``parity engine``: asks an engine that runs here the question of a bundle's case, and judges its answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parity.bundles.bundle import Bundle
from parity.bundles.tokens.asking import as_lines, ask
from parity.bundles.tokens.blackbox import the_case
from parity.cli.commands.judge import JudgeOptions, judge_subject
from parity.core.errors import ParityError
from parity.engines.questions import AnsweringEngine
from parity.engines.registry import engine as registered
from parity.engines.server import Server

SERVER = "server"


@dataclass(frozen=True)
class EngineOptions:
    """The options of ``parity engine``."""

    name: str
    bundle: Path
    cases: tuple[str, ...]
    url: str | None
    model: str
    timeout: float
    checkpoint: Path | None
    tokens: Path
    sha256: str | None
    out: Path | None
    as_json: bool


def ask_engine(options: EngineOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    engine = engine_of(options.name, options.url, options.model, options.timeout)
    bundle = Bundle(options.bundle, sha256=options.sha256)
    case = the_case(bundle, options.cases)
    if options.tokens.exists():
        raise ParityError(f"{options.tokens} exists already; name a new file")
    own = case.record["checkpoint"]["folder"]
    checkpoint = options.checkpoint or (case.folder / own if own is not None else None)
    if checkpoint is None:
        raise ParityError(f"{case.name} needs its checkpoint, which is not in the bundle; give --checkpoint")
    options.tokens.write_text(as_lines(ask(engine, case, checkpoint), engine.title, case.name), encoding="utf-8")
    judged = JudgeOptions(
        options.bundle, None, options.tokens, (case.name,), (), "float32", options.sha256, "full", None,
        options.out, options.as_json, False,
    )  # fmt: skip
    return judge_subject(judged)


def engine_of(name: str, url: str | None, model: str = "default", timeout: float = 300.0) -> AnsweringEngine:
    """Return an engine of the registry, or a server. Raises ParityError for a server without an address."""
    if name != SERVER:
        return registered(name)
    if url is None:
        raise ParityError("a server needs its address: --url http://127.0.0.1:8080")
    return Server(url, model=model, timeout=timeout)
