"""``parity run``: one checkpoint, one input, the port beside the reference, a verdict and a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import torch

from parity.cli import console as view
from parity.cli.output import Staged, report_folder, write_run
from parity.core.errors import ParityError
from parity.environment import environment
from parity.qwen3vl.batch import batch_rows
from parity.qwen3vl.blind import blind_to
from parity.qwen3vl.cases import (
    PHASES,
    Case,
    Checkpoint,
    Row,
    SeededCheckpoint,
    TrainedCheckpoint,
    photo_case,
    seeing_case,
    standard_suite,
)
from parity.qwen3vl.document import Side, generated_json, run_document
from parity.qwen3vl.engines import Engine, PortEngine, ReferenceEngine
from parity.qwen3vl.heatmaps import heat_maps
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.media import PictureFile, Source, VideoFile, is_picture
from parity.qwen3vl.perf import measure
from parity.qwen3vl.run import RunResult, run_subject
from parity.qwen3vl.store import TraceStore
from parity.qwen3vl.workbench import Workbench, checkpoint_digest, named_checkpoint, read_config
from parity.qwen3vl.yardstick import Yardstick, measure_yardstick

SEEDED = "seeded"  # as MODEL: the tiny seeded checkpoint
TIMED_RUNS = 3
# checkpoint, weights, pictures, yardstick, four floor runs, processor, subject twice, report
_STEPS = 12


@dataclass(frozen=True)
class RunOptions:
    """What ``parity run`` was asked for."""

    model: str | None
    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    prompt: str | None
    batch: int
    dtype: str
    case: str | None
    steps: int | None
    chunk: int | None
    padding_side: Literal["left", "right"]
    out: Path | None
    as_json: bool
    every: bool
    timing: bool
    seed: int
    threads: int | None
    traces: Path | None


def run(options: RunOptions) -> int:
    """Carry the command out; returns the exit code of the verdict."""
    if options.threads:
        torch.set_num_threads(options.threads)
    case = chosen_case(options)
    folder = report_folder(options.out, case.name)
    if options.traces is not None and options.traces.exists():
        raise ParityError(f"{options.traces} exists already; name a new folder for the traces")
    bench = Workbench()
    given = case.checkpoint if options.model in (None, SEEDED) else None
    turns = TIMED_RUNS + 1 if options.timing else 0
    with ExitStack() as stack:
        store = TraceStore()
        if options.traces is not None:
            store = TraceStore(stack.enter_context(Staged(options.traces, what="traces")).work)
        report = stack.enter_context(Staged(folder)).work
        # Before the bar: a download has bars of its own.
        named = None if given is not None or options.model is None else named_checkpoint(options.model)
        step = stack.enter_context(view.steps(_STEPS + turns, quiet=options.as_json))
        step("checkpoint")
        checkpoint = named or bench.checkpoint(case.checkpoint)
        config = read_config(checkpoint)
        step("reading weights")
        subject = PortEngine(bench.port(checkpoint, options.dtype), chunk=case.chunk)
        model = bench.reference(checkpoint, options.dtype)
        processor = bench.processor(checkpoint, options.dtype)
        front_end = bench.port_front(checkpoint)
        step("pictures and prompt")
        inputs = bench.inputs(case, checkpoint, options.dtype, store=store)
        with _reference_runs(checkpoint):
            yardstick = measure_yardstick(inputs, model, progress=step, store=store)
        result = run_subject(inputs, subject, yardstick, front_end=front_end, progress=step, store=store)
        performance = _timed(subject, yardstick, inputs, result, step) if options.timing else None
        step("report")
        maps = heat_maps(inputs, result.findings)
        document = run_document(
            result,
            environment=environment(command=_command(), seed=options.seed, threads=torch.get_num_threads()),
            subject=_side(subject),
            reference=_side(yardstick.engine),
            checkpoint=describe_checkpoint(checkpoint, given, config),
            case=describe_case(case, inputs, yardstick, [processor.decode(ids) for ids in yardstick.tokens.tolist()]),
            floor_runs=yardstick.runs,
            maps=maps,
            performance=performance,
            blind_to=blind_to(case, inputs, yardstick.trace, options.dtype),
        )
        write_run(document, maps, report)
    with view.printing() as console:
        if options.as_json:
            click.echo(json.dumps(document, allow_nan=False))
        else:
            _show(console, document, folder / "report.html", every=options.every)
    return result.judgement.verdict.exit_code


def chosen_case(options: RunOptions) -> Case:
    """The case that the options describe: one of the suite's, the default, or one of the user's own."""
    own = bool(options.images or options.videos) or options.prompt is not None
    if options.case is not None:
        chosen = suite_case(options.case)
        if own or options.model or options.batch > 1 or options.seed or options.steps is not None:
            raise ParityError(
                "--case brings its own model, seed, prompt, pictures, batch and steps; leave those out, or leave it out"
            )
        if options.chunk is not None or options.padding_side != "left":
            raise ParityError("--case brings its own chunk and padding side; leave those out, or leave it out")
        return chosen
    if options.seed and options.model != SEEDED:
        raise ParityError(f"--seed is the seeded checkpoint's; use `parity run {SEEDED} --seed {options.seed}`")
    base = seeing_case() if options.model is None else photo_case(SeededCheckpoint("tiny", seed=options.seed))
    rows = base.rows
    if own:
        media: list[Source] = [*map(PictureFile, options.images), *map(VideoFile, options.videos)]
        prompt = "Describe this." if options.prompt is None else options.prompt
        if not media and not prompt:
            raise ParityError("the prompt is empty and there is no picture; give --prompt a text, or leave it out")
        rows = ((*media, prompt) if prompt else tuple(media),)
    return replace(
        base,
        name="run" if own or options.model not in (None, SEEDED) else base.name,
        title=_title(rows[0], options.batch) if own or options.batch > 1 else base.title,
        phase=4 if options.batch > 1 else 1,
        rows=batch_rows(rows[0], options.batch),
        padding_side=options.padding_side,
        decode_steps=base.decode_steps if options.steps is None else options.steps,
        chunk=options.chunk,
    )


@contextmanager
def _reference_runs(checkpoint: Path) -> Iterator[None]:
    """What the reference raises over an input that both checks and processor let through is no defect of ours."""
    try:
        yield
    except ParityError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        raise ParityError(
            f"the reference cannot run this input on {checkpoint}: {error}; check that config.json, the tokenizer "
            "and the processor's configs belong to one checkpoint"
        ) from error


def suite_case(name: str) -> Case:
    """A case of the standard suite by name. Raises ParityError listing the names."""
    cases = {case.name: case for case in standard_suite()}
    if name not in cases:
        raise ParityError(f"there is no case {name!r}; choose one of {', '.join(cases)}")
    if cases[name].check == "weights":
        raise ParityError(f"the case {name!r} checks weights and runs in `parity suite --case {name}`")
    return cases[name]


def describe_case(case: Case, inputs: CaseInputs, yardstick: Yardstick, texts: Sequence[str]) -> dict[str, Any]:
    """The ``case`` section of a report."""
    tokens = inputs.tensors["attention_mask"].sum(dim=1).tolist()
    return {
        "name": case.name,
        "title": case.title,
        "phase": case.phase,
        "phase_title": PHASES[case.phase],
        "mode": case.mode,
        "batch": len(case.rows),
        "padding_side": case.padding_side,
        "rows": [
            {
                "text": " ".join(part if isinstance(part, str) else f"[{part.title}]" for part in row),
                "images": sum(is_picture(part) for part in row),
                "videos": sum(not isinstance(part, str) and not is_picture(part) for part in row),
                "tokens": count,
            }
            for row, count in zip(case.rows, tokens, strict=True)
        ],
        "steps": ["prefill", *(f"decode {step + 1}" for step in range(case.decode_steps))],
        "generated": generated_json(yardstick.tokens, texts),
    }


def describe_checkpoint(folder: Path, given: Checkpoint | None, config: dict[str, Any]) -> dict[str, Any]:
    """The ``checkpoint`` section of a report; ``given`` is None for a folder or hub id of the user's."""
    match given:
        case SeededCheckpoint():
            name = f"seeded {given.shape}, seed {given.seed}"
        case TrainedCheckpoint():
            name = "the trained model"
        case None:
            name = folder.name
    return {
        "name": name,
        "path": str(folder),
        "sha256": checkpoint_digest(folder),
        "parameters": count_parameters(folder),
        "tied": config["tie_word_embeddings"],
    }


def count_parameters(folder: Path) -> int:
    """Numbers in all tensors of a checkpoint."""
    from port.weights import Checkpoint  # keeps the handles closed when nobody counts

    with Checkpoint(folder) as checkpoint:
        return sum(torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.keys)


def _timed(
    subject: Engine, yardstick: Yardstick, inputs: CaseInputs, result: RunResult, step: view.Steps
) -> dict[str, Any] | None:
    """None where the subject cannot be timed because it failed to run."""
    if result.error is not None:
        return None
    # sdpa is what users of the reference run; eager is only the yardstick.
    reference = ReferenceEngine(yardstick.engine.model, "sdpa")
    progress = iter(range(2 * (TIMED_RUNS + 1)))
    return measure(
        subject,
        reference,
        inputs.tensors,
        yardstick.tokens,
        runs=TIMED_RUNS,
        progress=lambda: step("timing") if next(progress) % 2 == 0 else None,
    )


def _show(console: Any, document: dict[str, Any], html: Path, *, every: bool) -> None:
    verdict, case = document["verdict"], document["case"]
    title = (
        f"{document['subject']['name']} against {document['reference']['name']} {document['reference']['detail']}, "
        f"{document['subject']['dtype']}; {document['checkpoint']['name']}; {case['mode']}, batch {case['batch']}"
    )
    console.print(view.plain(title))
    console.print(view.findings_table(document["findings"], first=verdict["first_divergence"], every=every))
    if document["performance"] is not None:
        console.print(view.performance_table(document["performance"]))
    console.print(view.verdict_line(verdict), soft_wrap=True)
    console.print(view.plain(f"report: {html}"), soft_wrap=True)


def _title(row: Row, batch: int) -> str:
    media = [part.title for part in row if not isinstance(part, str)]
    what = ", ".join(media) if media else "text"
    return what if batch == 1 else f"{what}, batch of {batch}"


def _side(engine: Engine) -> Side:
    return Side(engine.name, engine.detail, engine.dtype)


def _command() -> list[str]:
    return ["parity", *sys.argv[1:]]
