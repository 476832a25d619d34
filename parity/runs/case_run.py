"""Runs the port on a case: all its stages in order, then one verdict. Nothing is printed or written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.cases.case import Case
from parity.core.compare import Finding
from parity.core.errors import ParityError
from parity.core.verdict import Judgement, judge
from parity.engines.base import Engine
from parity.engines.busy import BusyPortEngine
from parity.engines.calls import PortCalls
from parity.engines.generation import PortGeneration
from parity.engines.port import PortEngine
from parity.engines.refusals import PortRefusals, bad_inputs
from parity.runs.clock import Pass
from parity.runs.inputs import CaseInputs
from parity.runs.kept import KeptYardsticks
from parity.runs.loader import Loader, plain_config
from parity.runs.stages.calls_stage import calls_stage
from parity.runs.stages.generation_stage import GenerationStage, generation_stage
from parity.runs.stages.model_stage import ModelStage, model_stage
from parity.runs.stages.refusals_stage import refusals_stage
from parity.runs.stages.stage import Stage, StageResult, judge_stage, not_loaded
from parity.runs.stages.weights_stage import weights_stage
from parity.runs.store import NOT_KEPT, TraceStore
from parity.runs.yardstick import Progress
from reference.errors import ReferenceModelError


@dataclass(frozen=True)
class Result:
    """The findings of all stages and their verdict. ``error`` is what the subject raised, if it did.

    ``passes`` are the subject's, with their times. Not ``loaded``: it raised before its first seam.
    """

    findings: list[Finding]
    judgement: Judgement
    error: str | None = None
    loaded: bool = True
    passes: Sequence[Pass] = ()

    @classmethod
    def of(cls, results: Sequence[StageResult]) -> Result:
        findings = [finding for result in results for finding in result.findings]
        error = next((result.error for result in results if result.error is not None), None)
        loaded = all(result.loaded for result in results)
        passes = [each for result in results for each in result.passes]
        return cls(findings, judge(findings, subject_error=error, loaded=loaded), error, loaded, passes)


@dataclass
class CaseRun:
    """A case that ran: its result, and other data for the report.

    ``dtype`` is the subject's. ``inputs`` is None if the case has only the weights stage. ``subject`` is the port's
    model, if the case runs it and it could be loaded.
    """

    case: Case
    folder: Path
    dtype: str
    config: dict[str, Any]
    result: Result
    own_checkpoint: bool = True  # whether the folder is the case's own checkpoint, not one that the user named
    stages: list[Stage[Any]] = field(default_factory=list)
    inputs: CaseInputs | None = None
    subject: PortEngine | None = None
    texts: Sequence[str] = ()

    @property
    def model(self) -> ModelStage | None:
        """The model stage, if the case has one."""
        return next((stage for stage in self.stages if isinstance(stage, ModelStage)), None)

    @property
    def generation(self) -> GenerationStage | None:
        """The generation stage, if the case has one."""
        return next((stage for stage in self.stages if isinstance(stage, GenerationStage)), None)

    @property
    def floor_runs(self) -> list[str]:
        """The correct runs that made the floors of all stages."""
        return [run for stage in self.stages for run in stage.yardstick.runs]

    @property
    def passes(self) -> list[Pass]:
        """The passes of the model stage, with their times: the yardstick's, the floor runs' and the subject's."""
        if self.model is None:
            return []
        own = [each for each in self.result.passes if each.stage == self.model.name]
        return [*self.model.yardstick.passes, *own]

    @property
    def forwards(self) -> int:
        """Number of forwards of the model. The yardstick runs once; every floor run and the subject run twice.

        With a kept yardstick, only the subject runs.
        """
        if self.inputs is None or self.model is None:
            # The yardstick, each floor run and the subject generate every token of every request.
            planned = [] if self.generation is None else self.generation.planned
            return sum(len(each.tokens) for each in planned) * (2 + len(self.floor_runs))
        steps = self.case.decode_steps + 1
        subject = 2 * (steps + self.inputs.chunks - 1)
        return subject if self.model.kept else steps + 2 * len(self.model.yardstick.runs) * steps + subject


def run_case(
    case: Case,
    loader: Loader,
    *,
    dtype: str,
    folder: Path | None = None,
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
    kept: KeptYardsticks | None = None,
) -> CaseRun:
    """Run the port on a case. ``folder`` is a checkpoint to use instead of the case's own.

    ``kept`` has the yardsticks of earlier runs of the model stage.

    If the subject raises, it has failed the case, and its error becomes part of the verdict. Raises ParityError,
    or an error of another room such as ReferenceModelError, if the case cannot be run at all.
    """
    own = folder is None
    checkpoint = loader.checkpoint(case.checkpoint) if folder is None else folder
    config = plain_config(checkpoint)
    inputs, stages = prepare_stages(
        case, loader, dtype=dtype, folder=checkpoint, own=own, config=config, progress=progress, store=store, kept=kept
    )
    run = CaseRun(case, checkpoint, subject_dtype(case, dtype), config, Result.of([]), own, stages, inputs)
    if run.model is not None:
        processor = loader.processor(checkpoint)
        run.texts = [processor.decode(ids) for ids in run.model.tokens.tolist()]
    try:
        subjects = [subject_of(stage, case, loader, dtype=dtype, folder=checkpoint) for stage in stages]
    except (ParityError, ReferenceModelError, OSError, MemoryError):
        raise
    except Exception as error:  # a port may raise anything
        # The reference has just run on this checkpoint, so it is valid, and the port has failed.
        run.result = Result.of(not_loaded(stages, error))
        return run
    run.subject = next((subject for subject in subjects if isinstance(subject, PortEngine)), None)
    run.result = Result.of(
        [
            judge_stage(stage, subject, progress=progress, store=store)
            for stage, subject in zip(stages, subjects, strict=True)
        ]
    )
    return run


def prepare_stages(
    case: Case,
    loader: Loader,
    *,
    dtype: str,
    folder: Path,
    own: bool,
    config: dict[str, Any],
    progress: Progress = lambda _what: None,
    store: TraceStore = NOT_KEPT,
    kept: KeptYardsticks | None = None,
) -> tuple[CaseInputs | None, list[Stage[Any]]]:
    """Prepare the case's stages with their yardsticks. ``own``: the folder is the case's own checkpoint."""
    inputs: CaseInputs | None = None
    stages: list[Stage[Any]] = []
    if case.stages != ("weights",):
        inputs = loader.inputs(case, folder, store=store, digest=kept is not None)
    for name in case.stages:
        if name == "weights":
            progress("weights")
            reference = loader.reference(folder, "float32")
            stages.append(weights_stage(case.name, folder, case.checkpoint.dtype, reference, config))
        elif name == "refusals":
            stages.append(refusals_stage(case.name, bad_inputs(case)))
        elif inputs is not None and name == "processor":
            stages.append(inputs.processed)
        elif inputs is not None:
            model = loader.reference(loader.for_reference(case.checkpoint) if own else folder, dtype)
            with _reference_runs(folder):
                if name == "model":
                    stages.append(model_stage(inputs, model, progress=progress, store=store, kept=kept))
                elif name == "calls":
                    stages.append(calls_stage(inputs, model))
                else:
                    processor = loader.processor(folder)
                    stages.append(
                        generation_stage(
                            inputs, model, processor, case.requests, folder, progress=progress, store=store
                        )
                    )
    return inputs, stages


def subject_of(stage: Stage[Any], case: Case, loader: Loader, *, dtype: str, folder: Path) -> Engine:
    """Load the port's part for a stage. Raises PortError if it refuses the checkpoint."""
    if stage.name == "weights":
        return loader.port_weights(case, folder)
    if stage.name == "processor":
        return loader.port_processor(folder, case, anew=False)
    if stage.name == "calls":
        return PortCalls(loader.port(folder, dtype))
    if stage.name == "refusals":
        return PortRefusals(folder, bad_inputs(case))
    model, others = loader.port(folder, dtype), loader.other_requests(case, folder)
    if stage.name == "generation":
        processor = loader.port_processor(folder, case, anew=False).processor
        return PortGeneration(model, processor, others, chunk=case.chunk)
    return BusyPortEngine(model, others, chunk=case.chunk)


def subject_dtype(case: Case, dtype: str) -> str:
    """Return the dtype of the subject. Weights are judged in the checkpoint's own dtype, all else in ``dtype``."""
    return case.checkpoint.dtype if case.stages == ("weights",) else dtype


@contextmanager
def _reference_runs(folder: Path) -> Iterator[None]:
    """Turn errors of the reference on an input that passed all checks into ParityError, not defects of the harness."""
    try:
        yield
    except ParityError:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        raise ParityError(
            f"the reference cannot run this input on {folder}: {error}; check that config.json, the tokenizer "
            "and the processor's configs belong to one checkpoint"
        ) from error
