"""Sessions of the project. All of them share one environment, so that torch is installed once.

If nox runs in an environment that has the ``dev`` extra, the sessions use that environment. Otherwise nox makes
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

# Two workers, each with the tests of whole files. Several threads in each would be in each other's way.
WORKERS = ("-n", "2", "--dist", "loadfile")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
HERE = Path(__file__).parent
VENV = HERE / ".venv"
# The oldest supported transformers. It is put in front of the shared environment, so that torch is not installed twice.
OLDEST = ("transformers==4.57.6", "huggingface-hub>=0.34,<1.0", "tokenizers>=0.22,<0.23")
# Cases that together show most known mistakes; small, because every mistake is planted on each.
DIAGNOSED = ("config-traps", "trained-picture", "batch-3-chunked", "long-right", "other-requests", "generation-left")
OVERLAY = HERE / ".nox" / "transformers-4.57"


def python(session: nox.Session) -> str:
    """Return the interpreter of the shared environment. The environment is made on first use."""
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
    """Run ruff and mypy, and check which rooms import which."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "mypy")
    session.run(python(session), "-c", "from importlinter.cli import lint_imports_command as c; c()", external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests in two processes. Arguments are passed to pytest."""
    run(session, "pytest", *WORKERS, *session.posargs, env=ONE_THREAD)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that the default ones leave out: training, and attacks that take long."""
    run(session, "pytest", *WORKERS, "-m", "slow", *session.posargs, env=ONE_THREAD)


@nox.session
def parity(session: nox.Session) -> None:
    """Run the standard suite, then the mutants on the smallest set of cases that catches every known mistake."""
    run(session, "parity", "suite", *(session.posargs or ["--out", "parity-reports/suite"]))
    run(session, "parity", "mutants", "--out", "parity-reports/mutants")


@nox.session
def signoff(session: nox.Session) -> None:
    """Sign off all milestones of the port, and check the record. Arguments are passed to ``parity signoff``."""
    out = "parity-reports/signoff"
    run(session, "parity", "signoff", *(session.posargs or ["--out", out]))
    if not session.posargs:
        run(session, "parity", "signoff", "verify", f"{out}/signoff.json")


@nox.session
def bundles(session: nox.Session) -> None:
    """Make a golden bundle of tiny cases with their checkpoints. Fails if it is larger than 50 MB.

    With ``-- --suite`` or further ``--case``, it makes another one.
    """
    cases = ("config-traps", "batch-2-right", "video", "trained-picture")
    chosen = session.posargs or [word for case in cases for word in ("--case", case)]
    dtypes = ("--dtype", "float32", "--dtype", "bfloat16")
    out = "parity-reports/bundle"
    run(session, "parity", "bundle", "make", *dtypes, "--with-checkpoint", "--limit", "50MB", "--out", out, *chosen)
    run(session, "parity", "bundle", "check", out)


@nox.session
def diagnose(session: nox.Session) -> None:
    """Plant every known mistake in the port, and see how often a diagnosis names it: from full and coarse traces, and
    from log-probabilities; and how often it says that none fits once the right one is taken out.

    Arguments replace those of ``python -m parity.diagnosis.rates``, such as ``-- BUNDLE --minutes 3 --workers 2``.
    """
    bundle = "parity-reports/diagnose-bundle"
    if not session.posargs:
        cases = [word for case in DIAGNOSED for word in ("--case", case)]
        run(session, "parity", "bundle", "make", *cases, "--with-checkpoint", "--out", bundle)
    run(session, "parity.diagnosis.rates", *(session.posargs or [bundle, "--out", "parity-reports/diagnose.json"]))


@nox.session
def engines(session: nox.Session) -> None:
    """Judge mistral.rs, llama.cpp and its server by a golden bundle of text and of pictures without and with a resize.

    ``-- --url URL`` judges a server instead. An engine that cannot run here is named at the end, as not run.
    """
    bundle, cases = "parity-reports/engines-bundle", ("text", "trained-picture", "trained-resized")
    named = [word for case in cases for word in ("--case", case)]
    run(session, "parity", "bundle", "make", *named, "--with-checkpoint", "--out", bundle)
    missing = []
    for name in ("server",) if session.posargs else ("mistralrs", "llamacpp", "llama-server"):
        asking = f"from parity.engines.registry import engine; print(engine('{name}').unavailable() or '')"
        why = "" if session.posargs else session.run(python(session), "-c", asking, external=True, silent=True)
        if why and why.strip():
            missing.append(f"NOT RUN: {name}: {why.strip()}")
            continue
        for case in cases:
            tokens = f"parity-reports/engines-{name}-{case}.jsonl"
            Path(tokens).unlink(missing_ok=True)
            # A divergence is a finding about the engine, and no failure of this session.
            asked = [python(session), "-m", "parity", "engine", name, bundle, "--case", case, "--tokens", tokens]
            session.run(*asked, *session.posargs, external=True, success_codes=[0, 1, 3])
            told = [python(session), "-m", "parity", "diagnose", bundle, "--tokens", tokens, "--case", case]
            session.run(*told, external=True, success_codes=[0, 1, 3])
    if missing:
        session.warn("\n".join(missing))


@nox.session
def metamorphic(session: nox.Session) -> None:
    """Check seven relations of the port on random configs and batches, with 60 examples each."""
    env = {"METAMORPHIC_EXAMPLES": "60"}
    run(session, "pytest", "tests/parity/relations/test_relations.py", *session.posargs, env=env)


@nox.session
def generation(session: nox.Session) -> None:
    """Check on every case of the suite that 64 tokens equal those of transformers' ``generate``, and come no slower."""
    env = {"GENERATION_CASES": "all"}
    run(session, "pytest", "-s", "tests/parity/answers/test_generation.py", *session.posargs, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the branch coverage of the port under the suite. Fails if it is below tests/port/suite_coverage.toml."""
    out = Path("parity-reports") / "coverage"
    out.mkdir(parents=True, exist_ok=True)
    data = f"--data-file={out / 'data'}"
    suite = ("parity", "suite", "--fresh", "--threads", "1", "--out", str(out / "suite"), *session.posargs)
    run(session, "coverage", "run", "--branch", "--source=port", data, "-m", *suite)
    run(session, "coverage", "html", data, "--directory", str(out / "html"))
    run(session, "tests.port.suite_coverage", str(out / "data"))


@nox.session
def calibrate(session: nox.Session) -> None:
    """Measure the m that correct runs need, in all dtypes. The gates' m is based on this data."""
    dtypes = ("--dtype", "float32", "--dtype", "bfloat16", "--dtype", "float16")
    run(session, "parity", "calibrate", *dtypes, *session.posargs)


@nox.session
def perf(session: nox.Session) -> None:
    """Time the port beside the reference and the machine, then check it against the accepted figures.

    With arguments, only `parity bench` is run with them, for example `-- --shape 2b --dtype bfloat16`.
    """
    out = "parity-reports/bench"
    run(session, "parity", "bench", *(session.posargs or ["--out", out]))
    if not session.posargs:
        run(session, "parity", "bench", "--check", "--threads", "1", "--seconds", "20", "--out", f"{out}-check")


@nox.session
def perf_rates(session: nox.Session) -> None:
    """Measure how often the speed check catches a port that is 15 % slower, and how often it fails an unchanged one."""
    run(session, "tests.parity.bench.rates", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant every known mistake in the port, and run each on every case, in float32 and bfloat16."""
    for dtype in ("float32", "bfloat16"):
        out = f"parity-reports/mutants-{dtype}"
        run(session, "parity", "mutants", "--every-case", "--dtype", dtype, "--out", out, *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run a small kill matrix on local Dask clusters of 2, 4 and 8 workers. Fails if any outcome differs.

    Then the standard suite's loads and times with one process and with two.
    """
    run(session, "tests.parity.workers.clusters", *session.posargs, env=ONE_THREAD)
    if not session.posargs:
        run(session, "tests.parity.workers.loads", env=ONE_THREAD)


@nox.session
def tampering(session: nox.Session) -> None:
    """Try every tampered floor and reference of the table, and 100,000 random changes of bundles and traces."""
    run(session, "pytest", "tests/parity/cli/test_tampered_table.py", env={"TAMPERED_ROWS": "all"})
    run(session, "tests.parity.bundles.random_changes", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill a sign-off at every step of its writing, and let its disk fail at every step."""
    run(session, "pytest", "tests/parity/milestones/test_faults.py", *session.posargs, env={"FAULTS": "all"})


@nox.session
def pages(session: nox.Session) -> None:
    """Open every kind of page in a headless Chromium. Fails if there is none."""
    run(session, "pytest", "tests/browser", *session.posargs, env={"BROWSER_REQUIRED": "1"})


@nox.session
def train(session: nox.Session) -> None:
    """Train the small model from a seed into trained/. Fails if too many of its exam answers are wrong.

    The package ships reference/data/trained, which was made by this session. It is only replaced by hand.
    """
    run(session, "reference.training", "--out", "trained", *session.posargs)


@nox.session
def compat(session: nox.Session) -> None:
    """Run the standard suite and the tests of the capture and the yardstick with the oldest supported transformers."""
    if not OVERLAY.exists():
        arguments = ["pip", "install", "--no-deps", "--target", str(OVERLAY), *OLDEST]
        run(session, *arguments)
    env = {"PYTHONPATH": str(OVERLAY)}
    own = ["tests/reference/test_capture.py", "tests/parity/runs/test_true_float64.py"]
    run(session, "pytest", *own, "tests/parity/runs/test_planted_faults.py", env=env)
    run(session, "parity", "suite", "--out", "parity-reports/suite-transformers-4.57", env=env)
