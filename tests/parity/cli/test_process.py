"""The real command in a separate process: streams, terminals, pipes and signals."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.cases.case import TINY
from parity.runs.loader import Loader
from tests.parity.cli.samples import QUICK, snapshot

COMMAND = [sys.executable, "-m", "parity"]
GREEN = "\x1b[1;32mPARITY"


def _environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**inherited, "TERM": "xterm-256color", "COLUMNS": "160", **extra}


def _heed_interrupts() -> None:
    # A test run in the background may have been told to ignore them, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_terminal(
    *arguments: object, until: Callable[[str], int | None] = lambda _: None, **extra: str
) -> tuple[int, str]:
    """Run with a terminal on all streams; ``until`` sees the output so far and may name a signal to send, once."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=_environment(**extra), preexec_fn=_heed_interrupts
    )
    os.close(theirs)
    shown, sent = "", False
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end has closed
            break
        if not piece:
            break
        shown += piece.decode(errors="replace")
        number = None if sent else until(shown)
        if number is not None:
            process.send_signal(number)
            sent = True
    os.close(ours)
    return process.wait(timeout=60), shown


@pytest.mark.slow
def test_json_is_one_document_and_nothing_else(media: Path) -> None:
    command = [
        *COMMAND,
        "run",
        "seeded",
        *QUICK,
        "--image",
        str(media / "good.png"),
        "--video",
        str(media / "good.mp4"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verdict"]["value"] == "PARITY"
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_colours(media: Path) -> None:
    code, shown = _on_terminal("run", "seeded", *QUICK, "--image", media / "good.png")
    assert code == 0
    assert "floor run (" in shown
    assert re.search(r"\d+/13", shown)
    assert GREEN in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "loading weights"), pytest.param(signal.SIGTERM, "reference (", marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_run_and_leaves_nothing(number: int, moment: str, work: Path) -> None:
    code, shown = _on_terminal(
        "run",
        *("seeded", "--no-timing", "--steps", 200, "--out", "report", "--traces", "traces"),
        until=lambda shown: number if moment in shown else None,
    )
    assert code == 128 + number
    assert "parity: interrupted" in shown
    assert "Traceback" not in shown
    assert snapshot(work) == {}


def test_colours_are_for_terminals_that_want_them(traces: Path) -> None:
    floors = [word for folder in sorted(traces.glob("floor-*")) for word in ("--floor", folder)]
    command = ["compare", traces / "subject", traces / "reference", *floors]
    code, shown = _on_terminal(*command)
    assert code == 0
    assert GREEN in shown
    code, shown = _on_terminal(*command, NO_COLOR="1")
    assert code == 0
    assert not re.search("\x1b\\[[0-9;]*3[0-9]m", shown)
    assert "PARITY" in shown


def test_a_reader_that_goes_away_costs_the_text_only(traces: Path) -> None:
    floors = [word for folder in sorted(traces.glob("floor-*")) for word in ("--floor", folder)]
    for arguments in (["seams"], ["compare", traces / "subject", traces / "reference", *floors, "--json"]):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_comparing_needs_no_torch(traces: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from parity.cli.main import main\nmain()"
    )
    floors = [word for folder in sorted(traces.glob("floor-*")) for word in ("--floor", str(folder))]
    arguments = ["compare", str(traces / "subject"), str(traces / "reference"), *floors]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=_environment(), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([sys.executable, "-c", code, "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'qwen3vl-parity[port]'" in done.stderr


@pytest.mark.slow
def test_a_disk_that_is_full_is_no_defect_of_the_harness(media: Path, work: Path, tmp_path: Path) -> None:
    Loader().checkpoint(TINY)  # it is there before the disk is full
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [
        *COMMAND,
        "run",
        "seeded",
        *QUICK,
        "--image",
        str(media / "good.png"),
        "--traces",
        "traces",
        "--out",
        "report",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=_environment(TMPDIR=str(temporary)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "free space on its disk" in done.stderr
    assert "defect of the harness" not in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(work) == {}
    assert snapshot(temporary) == {}


SCRIPT = [str(Path(sys.executable).parent / "parity")]


@pytest.mark.slow
@pytest.mark.parametrize("command", [SCRIPT, COMMAND], ids=["parity", "python -m parity"])
def test_it_works_among_modules_of_the_same_names(command: list[str], work: Path, tiny: Path) -> None:
    """Our packages have general names; a user's repository may have a port.py and a reports/ of its own."""
    for name in ("port.py", "reports/__init__.py", "reference/__init__.py", "tests/__init__.py"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("raise RuntimeError('a module of the user was imported')\n", encoding="utf-8")
    broken = subprocess.run([sys.executable, "-c", "import port"], capture_output=True, text=True, check=False)
    assert "a module of the user was imported" in broken.stderr, "the trap works"
    arguments = ["run", str(tiny), "--prompt", "Hi", *QUICK, "--out", "out", "--json"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=_environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (work / "out" / "report.html").is_file()
