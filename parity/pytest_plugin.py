"""A pytest plugin: the fixture ``parity`` runs the command in a process of its own, and checks its verdicts.

The process is started as ``sys.executable -m parity``: a foreign repository may have modules named ``port`` or
``reports``, which an import here would take. This module therefore imports nothing else of the project.

    def test_port(parity):
        parity.assert_signed_off("phase-3", milestones="milestones.toml")

    def test_photo(parity):
        assert parity.run("judge", "golden", "traces").verdict == "PARITY"
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_VERDICTS = {0: "PARITY", 1: "DIVERGED", 2: "INVALID", 3: "INCOMPLETE"}
_LINES = 15


@dataclass(frozen=True)
class Outcome:
    """What a command gave. ``document`` is its JSON if it was run with ``--json``, else None."""

    command: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    document: Mapping[str, Any] | None

    @property
    def verdict(self) -> str:
        """The verdict, from the document where there is one."""
        if self.document is not None and "verdict" in self.document:
            return str(self.document["verdict"]["value"])
        return _VERDICTS.get(self.exit_code, f"exit code {self.exit_code}")

    @property
    def reason(self) -> str:
        """The reason of the verdict, or the last lines of the output."""
        if self.document is not None and "verdict" in self.document:
            return str(self.document["verdict"]["reason"])
        return "\n".join((self.stderr.strip() or self.stdout.strip()).splitlines()[-_LINES:])

    def __str__(self) -> str:
        return f"parity {' '.join(self.command)}: {self.verdict}: {self.reason}"


class Parity:
    """The fixture ``parity``. Commands run in ``folder``; reports that are not given a place go below ``reports``."""

    def __init__(self, folder: Path, reports: Path) -> None:
        self.folder, self.reports = folder, reports
        self._count = 0

    def run(self, *arguments: object, timeout: float | None = None) -> Outcome:
        """Run ``parity`` with these arguments. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        command = tuple(str(argument) for argument in arguments)
        done = subprocess.run(
            [sys.executable, "-m", "parity", *command],
            cwd=self.folder,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
        return Outcome(command, done.returncode, done.stdout, done.stderr, _document(command, done.stdout))

    def assert_signed_off(
        self,
        *phases: str | int,
        milestones: str | Path | None = None,
        reuse: str | Path | None = None,
        out: str | Path | None = None,
        waivers: bool = True,
        timeout: float | None = None,
    ) -> Outcome:
        """Sign off phases, such as ``"phase-3"`` or 3, or all without any, and fail the test unless all are signed off.

        ``milestones`` is a milestones file of your own. ``out`` keeps the record, ``reuse`` takes up fresh evidence of
        an earlier one. With ``waivers=False``, a milestone that needs a waiver fails the test.
        """
        self._count += 1
        place = Path(out) if out is not None else self.reports / f"signoff-{self._count}"
        command: list[object] = ["signoff", "--json", "--out", place]
        for phase in phases:
            command += ["--phase", phase_number(phase)]
        for option, value in (("--milestones", milestones), ("--reuse", reuse)):
            command += [option, value] if value is not None else []
        found = self.run(*command, timeout=timeout)
        if found.exit_code == 0 and found.document is None:
            pytest.fail(f"{found}\nit printed no document", pytrace=False)
        if found.exit_code != 0 or not _all_signed_off(found.document or {}):
            pytest.fail(_refusal(found, place), pytrace=False)
        waived = [waiver for line in _milestones(found) for waiver in line["waivers"]]
        if waived and not waivers:
            pytest.fail(f"{found}\nwaived: {', '.join(waiver['item'] for waiver in waived)}", pytrace=False)
        return found


def phase_number(phase: str | int) -> int:
    """Return the number of a phase that is written as 3, "3" or "phase-3"."""
    found = re.fullmatch(r"(?:phase[- ]?)?(\d+)", str(phase))
    if found is None:
        raise ValueError(f"{phase!r} is not a phase; write it as 3 or 'phase-3'")
    return int(found[1])


def _document(command: tuple[str, ...], output: str) -> Mapping[str, Any] | None:
    if "--json" not in command:
        return None
    try:
        found = json.loads(output)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _milestones(found: Outcome) -> list[Mapping[str, Any]]:
    return list((found.document or {}).get("milestones", []))


def _all_signed_off(document: Mapping[str, Any]) -> bool:
    """Never signed off by accident: an empty list of milestones is none."""
    milestones = document.get("milestones", [])
    return bool(milestones) and all(line["verdict"] == "SIGNED OFF" for line in milestones)


def _refusal(found: Outcome, place: Path) -> str:
    lines = [str(found)]
    for milestone in _milestones(found):
        if milestone["verdict"] != "SIGNED OFF":
            lines.append(f"phase {milestone['phase']}, {milestone['title']}: {milestone['verdict']}")
            lines += [
                f"  {item['id']}: {item['verdict']}: {item['reason']}"
                for item in milestone["items"]
                if item["verdict"] != "PARITY" and not item["waived"]
            ]
    return "\n".join([*lines, f"report: {place / 'report.html'}"])


@pytest.fixture
def parity(request: pytest.FixtureRequest, tmp_path: Path) -> Parity:
    """Run parity commands from a test, and check sign-offs."""
    return Parity(Path(request.config.rootpath), tmp_path)
