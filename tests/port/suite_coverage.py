"""Branch coverage of the port under the parity suite, beside what is accepted.

``nox -s coverage`` runs the suite under coverage.py and then this module. It fails if a file is below its figure in
``suite_coverage.toml``, or if a line that the suite does not reach has no reason there. Lines are named by their text,
so that they are found again when code above them changes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage

ACCEPTED = Path(__file__).with_name("suite_coverage.toml")


@dataclass(frozen=True)
class Covered:
    """The branch coverage of one file in percent, and the text of each line that was not reached."""

    file: str
    percent: float
    unreached: tuple[str, ...]


def measured(data_file: Path, root: Path) -> list[Covered]:
    """Return the coverage of every file of the port. ``root`` is the folder above ``port``."""
    run = coverage.Coverage(data_file=str(data_file), branch=True, source=[str(root / "port")])
    run.load()
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        run.json_report(outfile=report.name)
        files: dict[str, Any] = json.loads(Path(report.name).read_text(encoding="utf-8"))["files"]
    found = []
    for path, figures in sorted(files.items()):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        missing = tuple(lines[number - 1].strip() for number in figures["missing_lines"])
        name = Path(path).resolve().relative_to(root.resolve()).as_posix()
        found.append(Covered(name, figures["summary"]["percent_covered"], missing))
    return found


def complaints(found: Sequence[Covered], accepted: Mapping[str, Any]) -> list[str]:
    """Say what is below its figure, what has no figure, and what is not reached without a reason."""
    figures, reasons = accepted["files"], accepted["unreached"]
    said = []
    for file in found:
        if file.file not in figures:
            said.append(f"{file.file} has no figure in {ACCEPTED.name}; add one")
            continue
        if file.percent < figures[file.file]:
            said.append(f"{file.file}: {file.percent:.1f} % is reached, {figures[file.file]} % are accepted")
        own = [entry for entry in reasons if entry["file"] == file.file]
        for line in dict.fromkeys(file.unreached):
            if not any(line in entry.get("lines", [line]) for entry in own):
                said.append(f"{file.file}: not reached, and without a reason: {line}")
    return said


def main(data_file: str) -> int:
    """Print the table and the complaints. Returns 1 if there are any."""
    root = ACCEPTED.parents[2]
    accepted = tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))
    found = measured(Path(data_file), root)
    for file in found:
        print(f"{file.file:30} {file.percent:6.1f} %   accepted {accepted['files'].get(file.file, '-')} %")
    said = complaints(found, accepted)
    print("\n".join(said) or "every file is at its figure or above it, and every line that is not reached has a reason")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
