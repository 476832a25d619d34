"""Every ``parity`` command in a document is one that the real parser takes; those that are cheap are run.

A planted wrong command is seen to fail.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from parity.cli.main import main

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^\s*(?:#\s*)?```")
_PROMPT = re.compile(r"(?:.*?&&\s*)?(?:\$\s+)?(?:\.venv/bin/)?(?:python -m )?(parity(?:\s.*)?)$")
_CODE = re.compile(r"`((?:\.venv/bin/)?parity(?: [^`]+)?)`")
# Words in the documents that stand for a command or a value of the reader's own.
_PLACEHOLDERS = re.compile(r"^(?:[A-Z_]+|[A-Z]+/.*|\.\.\.)$")
# Commands that need neither a model nor files of the reader, by their words.
CHEAP = (["seams"], ["cases"], ["signoff", "--help"], ["mutants", "--help"])


# Names that commands had before; the list of changes says so.
_FORMER = ("sight",)


@dataclass(frozen=True)
class Found:
    """A command as it stands in a document. One that is named in a sentence may leave out its arguments."""

    where: str
    words: tuple[str, ...]
    named: bool = False

    def __str__(self) -> str:
        return f"{self.where}: parity {' '.join(self.words)}"


def documents() -> list[Path]:
    """All Markdown and workflow files, and the examples in TOML and YAML, that git knows or would take."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    names = listed or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [
        ROOT / name for name in names if name.endswith((".md", ".toml", ".yml", ".yaml")) and (ROOT / name).is_file()
    ]


def commands(path: Path) -> Iterator[Found]:
    """Commands in fenced blocks and in code spans of Markdown, in comments of TOML, and in lines of YAML."""
    fenced, lines = False, path.read_text(encoding="utf-8").splitlines()
    joined: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if joined and joined[-1][1].endswith("\\"):
            joined[-1] = (joined[-1][0], joined[-1][1][:-1] + " " + line.strip())
        else:
            joined.append((number, line))
    for number, line in joined:
        if _FENCE.match(line):
            fenced = not fenced
            continue
        where = f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{number}"
        bare = line.strip()
        if path.suffix == ".toml":
            bare = bare.lstrip("# ")
        elif path.suffix in (".yml", ".yaml"):
            bare = re.sub(r"^-?\s*(?:run|entry):\s*", "", bare.lstrip("# "))
        if fenced or path.suffix != ".md":
            for part in re.split(r"\s*(?:&&|;)\s*", bare):
                match = _PROMPT.fullmatch(part)
                if match and (fenced or _is_command(match[1])):
                    yield Found(where, _words(match[1]))
        else:
            for text in _CODE.findall(line):
                yield Found(where, _words(text.removeprefix(".venv/bin/")), named=True)


def _is_command(text: str) -> bool:
    """Whether a line of a comment is a command and not a sentence that begins with the word parity."""
    words = text.split()
    return len(words) > 1 and words[1] in main.commands


def _words(text: str) -> tuple[str, ...]:
    text = re.sub(r"\$\{\{[^}]*\}\}", "1", text)  # an expression of a workflow
    text = re.split(r"\s{2,}\(|\s+#\s|\s\|\|\s", text)[0]
    return tuple(shlex.split(text)[1:])


def refusal(found: Found) -> str | None:
    """What the parser says about a command: None if it takes it. Nothing is run, and no file is looked for."""
    command: click.Command = main
    context = click.Context(main, info_name="parity")
    rest = [_stand_in(word) for word in found.words]
    if found.named and rest and rest[0] in _FORMER:
        return None
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
        context = click.Context(command, info_name=command.name, parent=context)
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        return f"no such command {rest[0]!r}"
    if "--help" in rest or (found.named and not rest):
        return None
    try:
        command.parse_args(context, list(rest))
    except click.exceptions.NoArgsIsHelpError:
        return None if command is main else "it needs a subcommand"
    except click.MissingParameter as error:
        return None if found.named else error.format_message()
    except click.BadOptionUsage as error:
        named_last = found.named and error.option_name == rest[-1]
        return None if named_last else error.format_message()
    except click.ClickException as error:
        return error.format_message()
    return None


def _stand_in(word: str) -> str:
    """A value in place of a placeholder that an option of numbers would not take."""
    return {"N": "1", "I": "1", "I/N": "1/2"}.get(word, word)


FOUND = [found for path in documents() for found in commands(path)]


def test_documents_have_commands() -> None:
    assert len(FOUND) > 60
    assert {found.words[0] for found in FOUND if found.words} >= {
        *("run", "suite", "signoff", "judge", "bundle", "merge", "history", "quick"),
    }


@pytest.mark.parametrize("found", FOUND, ids=str)
def test_a_command_in_a_document_is_one_that_the_parser_takes(found: Found) -> None:
    assert refusal(found) is None


@pytest.mark.parametrize("words", CHEAP, ids=" ".join)
def test_a_cheap_command_runs(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


def test_every_command_of_the_readme_table_is_named_once() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in main.commands:
        assert f"`parity {name}" in text or name == "metamorphic", f"README.md does not name parity {name}"


@pytest.mark.parametrize(
    "line",
    [
        "parity sigth --pictures 3",
        "parity run --pictures a.jpg",
        "parity suite --shard 4/2",
        "parity bundle melt golden",
        "parity run --dtype int8",
        "parity signoff verify",
        "parity merge",
    ],
)
def test_a_wrong_command_is_seen(line: str, tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text(f"Text and `{line} `.\n\n```\n{line}\n```\n", encoding="utf-8")
    found = list(commands(page))
    assert len(found) == 2
    assert [refusal(command) for command in found if not command.named] != [None]
    if len(line.split()) > 3:
        assert all(refusal(command) is not None for command in found)
