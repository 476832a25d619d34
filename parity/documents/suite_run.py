"""Runs the cases of a suite on any workers, keeps what is finished, and takes up what an earlier run had finished."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.cases.case import Case
from parity.core.errors import ParityError
from parity.documents.suite import case_line, summary_line
from parity.documents.suite_case import case_task, run_suite_case
from parity.milestones.kept import Kept, Piece
from parity.milestones.keys import digest_json
from parity.milestones.suite import MadeWith, by_checkpoint, not_run
from parity.workers.base import Task, Workers, run_tasks
from parity.workers.messages import WorkerLost
from reports import document as documents


@dataclass(frozen=True)
class CaseResult:
    """The line of a case, the number of its forwards, and the folder of its report, if it has one."""

    line: Mapping[str, Any]
    forwards: int
    report: Path | None


def case_key(case: Case, made_with: MadeWith, *, threads: int) -> dict[str, Any]:
    """Return what a case's result belongs to. ``made_with`` has the checkpoint's sha256."""
    return {
        "code": made_with.code,
        "checkpoint": made_with.checkpoints[case.checkpoint.label],
        "definition": digest_json(repr(case)),
        "dtype": made_with.dtype,
        "threads": threads,
        **made_with.versions,
    }


def run_cases(
    cases: Sequence[Case],
    workers: Workers,
    kept: Kept,
    *,
    made_with: MadeWith,
    threads: int,
    environment: Mapping[str, Any],
    published: Path,
    device: str = "cpu",
) -> list[CaseResult]:
    """Return the results of the cases in their order. ``published`` is the folder of an earlier report.

    Every finished case is kept at once. Raises what ``run_tasks`` raises, and ParityError if a worker has another
    checkpoint of the same name.
    """
    found: dict[str, CaseResult] = {}
    keys = {case.name: case_key(case, made_with, threads=threads) for case in cases}
    for case in cases:
        earlier = published / "cases" / case.name
        taken = kept.take(case.name, keys[case.name], _taken(case), published=earlier)
        if taken is not None:
            workers.said(f"{case.name}: taken from the earlier run")
            found[case.name] = taken
    left = [case for case in by_checkpoint(cases) if case.name not in found]
    tasks = [
        case_task(case, dtype=made_with.dtype, device=device, threads=threads, environment=environment) for case in left
    ]
    for place, answer in run_tasks(workers, run_suite_case, tasks, lost=_lost({case.name: case for case in left})):
        case = left[place]
        found[case.name] = _kept(case, answer, kept, keys[case.name])
    return [found[case.name] for case in cases]


def publish(results: Sequence[CaseResult], folder: Path) -> None:
    """Copy the reports of the cases into the folder of the suite's report."""
    for result in results:
        if result.report is not None:
            place = folder / Path(result.line["report"]).parent
            shutil.copytree(result.report, place, copy_function=_link)


def _link(source: str, target: str) -> str:
    """Link a file, or copy it where links are not possible. Nothing of ours ever writes into an existing file."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
    return target


def _taken(case: Case) -> Callable[[Piece], CaseResult]:
    def check(piece: Piece) -> CaseResult:
        """Compute the line again from the report of the case, which must agree with itself."""
        if piece.content["error"] is not None:
            raise ParityError("it ended with an error and is run again")
        if piece.files is None:
            raise ParityError("it has no report")
        document = documents.load(piece.files / "report.json")
        if document["kind"] != "run" or document["case"]["name"] != case.name:
            raise ParityError("its report is of another case")
        line = case_line(
            case, document["verdict"], document["findings"],
            seconds=piece.content["seconds"], report=f"cases/{case.name}/report.html",
        )  # fmt: skip
        return CaseResult(line, piece.content["forwards"], piece.files)

    return check


def _kept(case: Case, answer: Mapping[str, Any], kept: Kept, key: Mapping[str, Any]) -> CaseResult:
    if answer["checkpoint"] not in (None, key["checkpoint"]):
        raise ParityError(
            f"a worker has another checkpoint {case.checkpoint.label}: its sha256 is {answer['checkpoint']}, here it "
            f"is {key['checkpoint']}; copy the folder of checkpoints (QWEN3VL_PARITY_CACHE) to the workers"
        )
    line, forwards = answer["line"], answer["forwards"]
    files = {name: base64.b64decode(data) for name, data in answer["files"].items()}
    if not files:
        return CaseResult(line, forwards, None)
    content = {"error": answer["error"], "forwards": forwards, "seconds": line["seconds"]}
    return CaseResult(line, forwards, kept.keep(case.name, key, content, files).files)


def _lost(cases: Mapping[str, Case]) -> Callable[[Task, WorkerLost], dict[str, Any]]:
    def lost(task: Task, error: WorkerLost) -> dict[str, Any]:
        summary = not_run(cases[task["case"]], str(error))
        return {"line": summary_line(summary), "forwards": 0, "error": str(error), "checkpoint": None, "files": {}}

    return lost
