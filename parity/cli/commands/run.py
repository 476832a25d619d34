"""``parity run``: compares the port with the reference on one input. Gives a verdict and a report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from parity.bench.memory import highest_memory
from parity.bench.models import measure
from parity.cli import console as view
from parity.cli.command import elapsed, finish, here
from parity.cli.offers import of_case, offered
from parity.cli.progress import Bar, progress_bar
from parity.cli.run_options import SEEDED, RunOptions, chosen_case
from parity.core.errors import ParityError
from parity.documents.folders import report_folder
from parity.documents.run import write_run
from parity.engines.device import describe_device, use_device
from parity.engines.reference import ReferenceEngine
from parity.milestones.keys import code_digest
from parity.runs.case_run import CaseRun, run_case
from parity.runs.clock import Spent
from parity.runs.kept import KeptYardsticks
from parity.runs.loader import Loader, read_config
from parity.runs.named import named_checkpoint
from parity.runs.store import TraceStore
from reports.staging import Staged

TIMED_RUNS = 3
# Steps: checkpoint, weights, pictures, yardstick, four floor runs, processor twice, model twice, report.
_WORK = 13


def run(options: RunOptions) -> int:
    """Run the command. Returns the exit code of the verdict."""
    imports = elapsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    case = chosen_case(options)
    folder = report_folder(options.out, case.name)
    if options.traces is not None and options.traces.exists():
        raise ParityError(f"{options.traces} exists already; name a new folder for the traces")
    device = use_device(options.device, options.dtype)
    loader = Loader(device=device)
    timing = TIMED_RUNS + 1 if options.timing and "model" in case.stages else 0
    with ExitStack() as stack:
        store = TraceStore()
        if options.traces is not None:
            store = TraceStore(stack.enter_context(Staged(options.traces, what="traces")).work)
        report = stack.enter_context(Staged(folder)).work
        # Before the bar is shown: a download shows its own bars.
        named = None if options.model in (None, SEEDED) else named_checkpoint(str(options.model))
        step = stack.enter_context(progress_bar(_WORK + timing, quiet=options.as_json))
        step("checkpoint")
        before = elapsed()
        checkpoint = named or loader.checkpoint(case.checkpoint)
        read_config(checkpoint)
        if "model" in case.stages:
            step("loading weights")  # first, so that a broken checkpoint is reported before any forward
            loader.port(checkpoint, options.dtype)
            loader.reference(checkpoint, options.dtype)
        if "processor" in case.stages:
            loader.processor(checkpoint)
            loader.port_processor(checkpoint)
        loading = elapsed() - before
        step("pictures and prompt")
        found = run_case(
            case, loader, dtype=options.dtype, folder=named, progress=step, store=store, kept=_kept(options.cache)
        )
        spent = Spent(elapsed(), imports, loading, highest_memory(), loader.model_bytes)
        performance = _timed(found, step) if timing else None
        step("report")
        document = write_run(
            found,
            report,
            environment=here(seed=options.seed, threads=torch.get_num_threads(), device=describe_device(device)),
            performance=performance,
            spent=spent,
        )
    return finish(
        document,
        lambda console: _show(console, document, folder / "report.html", options),
        as_json=options.as_json,
    )


def _kept(folder: Path | None) -> KeptYardsticks | None:
    """Yardsticks depend on the code of the reference and of the harness, not on the port's."""
    return None if folder is None else KeptYardsticks(folder, code_digest(rooms=("parity", "reference")))


def _timed(run: CaseRun, step: Bar) -> dict[str, Any] | None:
    """Time both sides. Returns None if the subject failed to run."""
    if run.result.error is not None or run.subject is None or run.model is None or run.inputs is None:
        return None
    # Users of the reference run sdpa; eager is only used for the yardstick.
    reference = ReferenceEngine(run.model.reference.model, "sdpa")
    progress = iter(range(2 * (TIMED_RUNS + 1)))
    return measure(
        run.subject,
        reference,
        run.inputs.tensors,
        run.model.tokens,
        runs=TIMED_RUNS,
        device=reference.model.device,
        progress=lambda: step("timing") if next(progress) % 2 == 0 else None,
    )


def _show(console: Any, document: dict[str, Any], html: Path, options: RunOptions) -> None:
    verdict, case = document["verdict"], document["case"]
    title = (
        f"{document['subject']['name']} against {document['reference']['name']} {document['reference']['detail']}, "
        f"{document['subject']['dtype']}; {document['checkpoint']['name']}; {case['mode']}, batch {case['batch']}"
    )
    console.print(view.plain(title))
    console.print(view.findings_table(document["findings"], first=verdict["first_divergence"], every=options.every))
    if document["performance"] is not None:
        console.print(view.performance_table(document["performance"]))
    console.print(view.plain(view.cost_line(document["cost"])), soft_wrap=True)
    console.print(view.verdict_line(verdict), soft_wrap=True)
    console.print(view.plain(f"report: {html}"), soft_wrap=True)
    if verdict["value"] == "DIVERGED" and (options.case is not None or options.by_default):
        words = of_case(case["name"], options.dtype, traces=options.traces)
        console.print(view.plain(offered(*words)), soft_wrap=True)
