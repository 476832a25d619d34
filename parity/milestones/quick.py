"""A quick check of the port, without the reference: one case, judged by a golden bundle that is made once and kept.

The bundle is kept under a key of everything that it depends on: the code of ``parity/`` and ``reference/`` and the
versions of the libraries. Changing the port does not make it again. Only the accumulated comparison is possible, so a
mistake that only the isolated one shows is not caught; the suite and the sign-off are for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from parity.bundles.bundle import Bundle, BundleCase
from parity.cases.case import Case
from parity.cases.media_batch import write_media_batch
from parity.cases.registry import chosen_cases
from parity.core.compare import Comparison, Finding
from parity.core.errors import ParityError
from parity.core.gates import DEFAULT_GATE
from parity.core.verdict import Judgement, judge
from parity.engines.base import Engine, Sink
from parity.engines.port import PortEngine, PortProcessor, port_processor
from parity.milestones.keys import code_digest, digest_json, versions
from parity.runs.recorder import Recorder
from parity.seams.model import expected_model_seams
from parity.seams.spec import Expected
from port import load_model

#: Pictures, a video of its own length, text between them, the cache.
CASE = "video-before-picture"
DTYPE = "float32"
_PORT_INPUTS = (
    *("input_ids", "attention_mask"),
    *("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"),
)


@dataclass(frozen=True)
class Quick:
    """The judgement over both stages, and what was compared."""

    judgement: Judgement
    findings: list[Finding]


def bundle_folder(cache: Path) -> Path:
    """Return where the bundle of this code and these versions is kept."""
    key = digest_json([code_digest(rooms=("parity", "reference")), versions(), CASE, DTYPE])
    return cache / "quick" / key[:16]


def kept_bundle(folder: Path, make: Callable[[Case, Path], None]) -> Bundle:
    """Open the kept bundle, or make it. A kept bundle that was changed or is not whole is made again."""
    if folder.is_dir():
        try:
            return Bundle(folder)
        except ParityError:
            pass  # made again, below
    (case,) = chosen_cases([CASE])
    make(case, folder)
    return Bundle(folder)


def check(bundle: Bundle) -> Quick:
    """Run the port on the bundle's case and judge every value. The subject may raise; that is its failure."""
    case = bundle.cases[CASE]
    folder = bundle.folder / case.record["checkpoint"]["folder"]
    findings: list[Finding] = []
    error: str | None = None
    for stage, run in (("processor", _processor), ("model", _model)):
        # Opening the bundle has checked every file of it, and this project made it.
        reference = case.reference(stage, DTYPE)
        comparison = Comparison(reference, case.floors(reference, stage, DTYPE), DEFAULT_GATE)
        raised = run(case, folder, comparison)
        findings += comparison.findings(why_missing=f"the port failed before: {raised}" if raised else "not given")
        error = error or raised
    return Quick(judge(findings, subject_error=error), findings)


def _processor(case: BundleCase, folder: Path, comparison: Comparison) -> str | None:
    (own,) = chosen_cases([case.name])
    batch = write_media_batch(own.rows, own.padding_side)

    def run(sink: Sink) -> Engine:
        engine = PortProcessor(port_processor(folder))
        engine.process(batch, sink)
        return engine

    return _attempt(run, [], comparison)


def _model(case: BundleCase, folder: Path, comparison: Comparison) -> str | None:
    inputs = case.inputs
    assert inputs is not None
    given = {name: torch.from_numpy(inputs.read(name).copy()) for name in _PORT_INPUTS if name in inputs.names}
    tokens = torch.tensor(case.part(DTYPE)["decode_tokens"])
    steps = case.record["decode_steps"]
    expected = expected_model_seams(
        case.dimensions, decode_steps=steps, images=case.count("image") > 0, videos=case.count("video") > 0
    )

    def run(sink: Sink) -> None:
        engine = PortEngine(load_model(folder, dtype=torch.float32))
        with torch.no_grad():
            engine.trace(given, tokens, steps=steps, sink=sink)

    return _attempt(run, expected, comparison)


def _attempt(run: Callable[[Sink], object], expected: list[Expected], comparison: Comparison) -> str | None:
    """Run the port. Errors of judging are raised, those of the port are returned."""
    failed: list[Exception] = []

    def judged(*given: object) -> None:
        try:
            comparison.judge(*given)  # type: ignore[arg-type]
        except Exception as error:
            failed.append(error)
            raise

    try:
        run(Recorder(expected, judged))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the port may raise anything
        if failed:
            raise failed[0] from None
        return f"{type(error).__name__}: {error}"
    return None
