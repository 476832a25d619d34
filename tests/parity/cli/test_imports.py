"""What each command imports: the help and usage errors need neither torch nor transformers.

A command that is missing in the tables below fails a test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from parity.cli.main import main
from tests.parity.cli.samples import picture

# Packages that take long to import.
HEAVY = ("torch", "transformers", "torchvision", "huggingface_hub", "pandas", "matplotlib.pyplot", "tokenizers", "av")
SCRIPT = f"""
import json, sys
from parity.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)
"""
PORT = {"torch", "tokenizers"}
REPORT = {"pandas"}

# Arguments of usage errors and what they may import. NOWHERE is a folder that does not exist.
USAGE: dict[str, list[tuple[tuple[str, ...], set[str]]]] = {
    "run": [
        (("NOWHERE",), set()),
        (("--case", "nope"), set()),
        (("--seed", "1"), set()),
        (("--prompt", ""), set()),
        (("--dtype", "int8"), set()),
        (("--cache", "file"), set()),
        (("--cache", "kept", "--traces", "new"), set()),
    ],
    "suite": [
        (("--shard", "5/4"), set()),
        (("--case", "nope"), set()),
        (("--case", "text", "--phase", "4"), set()),
        (("--phase", "9"), set()),
    ],
    "signoff": [
        (("--milestones", "NOWHERE"), set()),
        (("--phase", "9"), set()),
        (("--reuse", "NOWHERE"), set()),
        (("--junit", "."), set()),
    ],
    "signoff verify": [((), set()), (("NOWHERE",), set()), (("NOWHERE", "--again", "x"), set())],
    "signoff diff": [((), set()), (("NOWHERE", "NOWHERE"), set())],
    "merge": [((), set()), (("NOWHERE",), set()), (("NOWHERE", "--nope"), set())],
    "history": [((), set()), (("NOWHERE",), set())],
    "quick": [(("--nope",), set())],
    "compare": [(("NOWHERE", "NOWHERE"), set()), (("NOWHERE", "NOWHERE", "--floor", "NOWHERE"), set())],
    "judge": [
        (("NOWHERE", "NOWHERE"), set()),
        (("NOWHERE", "--tokens", "NOWHERE"), set()),
        (("NOWHERE", "NOWHERE", "--expect", "much"), set()),
        (("NOWHERE", "NOWHERE", "--layout", "NOWHERE"), set()),
        (("--stage", "weights", "NOWHERE", "NOWHERE"), set()),
    ],
    "diagnose": [(("NOWHERE", "NOWHERE"), set()), (("NOWHERE", "NOWHERE", "--expect", "much"), set())],
    "engine": [
        (("nope", "NOWHERE", "--tokens", "new"), set()),
        (("mistralrs", "NOWHERE", "--tokens", "new"), set()),
        (("server", "NOWHERE", "--url", "ftp://x", "--tokens", "new"), set()),
    ],
    "bundle make": [
        (("--out", "new"), set()),
        (("--case", "nope", "--out", "new"), set()),
        (("NOWHERE", "--case", "text", "--out", "new"), set()),
        (("--case", "text", "--out", "file"), set()),
    ],
    "bundle check": [(("NOWHERE",), set())],
    "bundle show": [(("NOWHERE",), set())],
    "processor": [((), set()), (("NOWHERE", "--image", "x.png"), set())],
    "greedy": [(("NOWHERE",), set()), (("--engine", "nope"), set())],
    "exam": [(("NOWHERE",), set()), (("--pictures", "0", "--clips", "0"), set()), (("--engine", "nope"), set())],
    "metamorphic": [((), set()), (("nope", "--spec", "{}"), PORT)],
    "scenes": [((".",), REPORT), (("NOWHERE", "--pictures", "0", "--clips", "0"), set())],
    "checkpoint make": [(("file",), {"tokenizers"}), (("new", "--shape", "nope"), {"tokenizers"})],
    "mutants": [
        (("--case", "nope"), set()),
        (("--case", "text", "--every-case"), set()),
        (("--mutant", "nope"), PORT),
    ],
    "calibrate": [(("--case", "nope"), set())],
    "activations": [(("NOWHERE",), set())],
    "bench": [
        (("NOWHERE",), set()),
        (("x", "--shape", "2b"), set()),
        (("--accepted", "NOWHERE"), set()),
        (("--check", "--accepted", "NOWHERE"), set()),
    ],
    "chat": [(("NOWHERE",), set()), (("--json",), PORT)],
    "seams": [(("--nope",), set())],
    "cases": [(("--nope",), set())],
    "trace check": [((), set()), (("NOWHERE",), set()), (("NOWHERE", "--against", "NOWHERE"), set())],
    "report": [((), set()), (("NOWHERE",), REPORT)],
}
# Commands that need only a part of the project, with arguments that let them do their work.
WORK: list[tuple[tuple[str, ...], int, set[str]]] = [
    (("seams",), 0, set()),
    (("cases",), 0, set()),
    (("scenes", "shown", "--pictures", "1", "--clips", "0"), 0, REPORT),
    (("checkpoint", "make", "made"), 0, {"tokenizers"}),
    (("chat", "--image", "picture.png", "--prompt", "What is it?", "--max-new-tokens", "1"), 0, PORT),
    (("exam", "--engine", "port", "--pictures", "1", "--clips", "0"), 3, PORT),
]


def _commands(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield before + name
            yield from _commands(command, f"{before}{name} ")
        else:
            yield before + name


def _parity(*arguments: str) -> tuple[int, set[str]]:
    """Run the command in a process of its own. Returns its exit code, and what it imported of ``HEAVY``."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    code, imported = json.loads(done.stderr.splitlines()[-1])
    return code, set(imported)


def test_every_command_is_in_the_table() -> None:
    assert set(_commands(main)) == USAGE.keys()


@pytest.mark.parametrize("command", ["", *USAGE])
def test_help_imports_nothing_heavy(command: str) -> None:
    assert _parity(*command.split(), "--help") == (0, set())


@pytest.mark.parametrize(
    ("command", "arguments", "allowed"),
    [(command, *line) for command, lines in USAGE.items() for line in lines],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value if isinstance(value, str) else "",
)
def test_a_usage_error_imports_little(command: str, arguments: tuple[str, ...], allowed: set[str], work: Path) -> None:
    (work / "file").write_text("x", encoding="utf-8")
    given = [str(work / "nowhere") if argument == "NOWHERE" else argument for argument in arguments]
    code, imported = _parity(*command.split(), *given)
    assert code == 2
    assert imported <= allowed


@pytest.mark.parametrize(
    ("arguments", "code", "allowed"), WORK, ids=lambda value: str(sorted(value) if isinstance(value, set) else value)
)
def test_a_command_imports_only_what_it_needs(
    arguments: tuple[str, ...], code: int, allowed: set[str], work: Path
) -> None:
    picture(work / "picture.png")
    assert _parity(*arguments) == (code, allowed)


@pytest.mark.slow
def test_the_list_of_imports_shows_what_is_imported() -> None:
    # Or the tests above would pass with any import.
    assert _parity("run", "--case", "text", "--no-timing")[1] >= {"torch", "transformers", "pandas"}
