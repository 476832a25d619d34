"""The sessions of noxfile.py, most of which CI does not run, name tests and options that exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
import pytest

from parity.cli.main import main

ROOT = Path(__file__).parents[1]


class Session:
    """Remembers the commands of a session in the place of running them."""

    def __init__(self) -> None:
        self.posargs: list[str] = []
        self.commands: list[tuple[str, ...]] = []

    def run(self, *command: str, **_options: Any) -> None:
        self.commands.append(command)


def _commands() -> dict[str, list[tuple[str, ...]]]:
    """The commands of every session, without the interpreter."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = (
        "lint",
        "tests",
        "parity",
        "bundles",
        "metamorphic",
        "generation",
        "calibrate",
        "mutants",
        "train",
        "compat",
        "signoff",
        "perf",
        "perf_rates",
        "diagnose",
        "engines",
    )
    found = {}
    for name in names:
        session = Session()
        getattr(module, name).func(session)
        found[name] = [command[2:] for command in session.commands if command[1] == "-m"]
    return found


COMMANDS = _commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tests_that_a_session_names_exist(name: str) -> None:
    assert COMMANDS[name], "every session runs something"
    named = [word for command in COMMANDS[name] for word in command if word.startswith("tests/")]
    assert [word for word in named if not (ROOT / word).exists()] == []
    assert named or name not in ("metamorphic", "generation", "compat")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_parity_commands_of_a_session_are_valid(name: str) -> None:
    for module, *words in COMMANDS[name]:
        if module == "parity":
            with click.Context(main) as above:
                command, rest = main.commands[words[0]], words[1:]
                if isinstance(command, click.Group) and rest[0] in command.commands:
                    command, rest = command.commands[rest[0]], rest[1:]
                command.make_context(words[0], rest, parent=above)  # parses, and runs nothing


def test_an_option_that_is_gone_would_be_noticed() -> None:
    with pytest.raises(click.NoSuchOption), click.Context(main) as above:
        main.commands["mutants"].make_context("mutants", ["--gone"], parent=above)
