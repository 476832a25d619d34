"""Runs one case of a suite in whatever process it is called, and gives its report as data."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from parity.cases.case import Case
from parity.cases.registry import every_case
from parity.documents.run import write_run
from parity.documents.suite import summary_line
from parity.engines.device import use_device
from parity.milestones.suite import run_one
from parity.runs.case_run import CaseRun
from parity.runs.loader import Loader
from parity.workers import state


def case_task(
    case: Case, *, dtype: str, threads: int, environment: Mapping[str, Any], device: str = "cpu"
) -> dict[str, Any]:
    """Return the task of a case as plain data, for ``run_suite_case``."""
    return {
        "case": case.name,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "environment": dict(environment),
        "group": case.checkpoint.label,
        "label": f"{case.name}: {case.title}",
    }


def run_suite_case(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run the case of a task. Returns its line, the sha256 of its checkpoint, and the files of its report in base64."""
    state.say(task["label"])
    torch.set_num_threads(task["threads"])
    device = use_device(task["device"], task["dtype"])
    case = every_case()[task["case"]]
    loader = state.kept(f"loader {device}", lambda: Loader(device=device))
    with tempfile.TemporaryDirectory(prefix="parity-case-") as place:
        folder = Path(place) / "report"

        def finished(run: CaseRun) -> str:
            write_run(run, folder, environment=task["environment"])
            return f"cases/{case.name}/report.html"

        summary = run_one(case, loader, dtype=task["dtype"], finished=finished)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        "line": summary_line(summary),
        "forwards": summary.forwards,
        "error": summary.error,
        "checkpoint": None if not files else loader.digest(loader.checkpoint(case.checkpoint)),
        "files": {name: base64.b64encode(data).decode("ascii") for name, data in sorted(files.items())},
    }
