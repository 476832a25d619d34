"""Sessions of the project. All of them share one environment, so that torch is installed once.

Started from an environment that has the ``dev`` extra, nox uses that one; started from anywhere else, it makes
``.venv`` here and installs the project into it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests", "parity"]

HERE = Path(__file__).parent
VENV = HERE / ".venv"
# The oldest transformers with Qwen3-VL, laid over the shared environment without a second torch.
OLDEST = ("transformers==4.57.6", "huggingface-hub>=0.34,<1.0", "tokenizers>=0.22,<0.23")
OVERLAY = HERE / ".nox" / "transformers-4.57"


def python(session: nox.Session) -> str:
    """The shared environment's interpreter, made on first use."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("pytest"):
        return sys.executable
    interpreter = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not interpreter.exists():
        session.run(sys.executable, "-m", "venv", str(VENV), external=True)
        session.run(str(interpreter), "-m", "pip", "install", "-e", ".[dev]", external=True)
    return str(interpreter)


def run(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a module in the shared environment."""
    session.run(python(session), "-m", *arguments, external=True, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, types, and the import contract between the rooms."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "mypy")
    session.run(python(session), "-c", "from importlinter.cli import lint_imports_command as c; c()", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """The default tests; arguments go to pytest."""
    run(session, "pytest", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """The standard suite with a verdict per phase, then the smallest set of inputs that catches every known mistake."""
    run(session, "parity", "suite", *(session.posargs or ["--out", "parity-reports/suite"]))
    run(session, "parity", "mutants", "--out", "parity-reports/mutants")


@nox.session
def metamorphic(session: nox.Session) -> None:
    """Relations of the port over random configs and batches: 60 examples of each of seven."""
    env = {"METAMORPHIC_EXAMPLES": "60"}
    run(session, "pytest", "tests/parity/qwen3vl/test_metamorphic.py", *session.posargs, env=env)


@nox.session
def generation(session: nox.Session) -> None:
    """64 tokens of every case of the suite as transformers' own ``generate`` gives them, and no slower."""
    env = {"GENERATION_CASES": "all"}
    run(session, "pytest", "-s", "tests/parity/qwen3vl/test_generation.py", *session.posargs, env=env)


@nox.session
def calibrate(session: nox.Session) -> None:
    """What correct runs need, in all dtypes: the data behind the gate's m."""
    dtypes = ("--dtype", "float32", "--dtype", "bfloat16", "--dtype", "float16")
    run(session, "parity", "calibrate", *dtypes, *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Every known mistake planted in the port, on every input that there is, in float32 and bfloat16."""
    for dtype in ("float32", "bfloat16"):
        out = f"parity-reports/mutants-{dtype}"
        run(session, "parity", "mutants", "--case", "all", "--dtype", dtype, "--out", out, *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    """The small model that sees, trained anew from a seed into trained/; fails when it does not see well enough.

    What ships is reference/data/trained; it was made so, and is replaced by hand.
    """
    run(session, "reference.training", "--out", "trained", *session.posargs)


@nox.session
def compat(session: nox.Session) -> None:
    """The standard suite, the capture and the yardstick with the oldest supported transformers."""
    if not OVERLAY.exists():
        arguments = ["pip", "install", "--no-deps", "--target", str(OVERLAY), *OLDEST]
        run(session, *arguments)
    env = {"PYTHONPATH": str(OVERLAY)}
    own = ["tests/reference/test_capture.py", "tests/parity/qwen3vl/test_true_float64.py"]
    run(session, "pytest", *own, "tests/parity/qwen3vl/test_planted_faults.py", env=env)
    run(session, "parity", "suite", "--out", "parity-reports/suite-transformers-4.57", env=env)
