"""A divergence is followed by the commands that diagnose it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from parity.cli.main import main
from parity.cli.offers import of_case, offered


def test_the_offered_commands_exist_with_their_options() -> None:
    for words in of_case("trained-picture", "float32"):
        assert words[0] == "parity"
        name = words[1:3] if words[1] == "bundle" else words[1:2]
        said = CliRunner().invoke(main, [*name, "--help"])
        assert said.exit_code == 0
        assert all(word in said.output for word in words if word.startswith("--"))


def test_traces_that_exist_are_not_written_again() -> None:
    text = offered(*of_case("text", "float32", traces=Path("my traces")))
    assert "parity run" not in text
    assert text.endswith("parity diagnose golden 'my traces' --case text")
