"""Builds the document of one case, and writes its report folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from parity.cases.case import SeededCheckpoint, TrainedCheckpoint
from parity.cases.media import is_picture
from parity.core.compare import Logits
from parity.core.digest import checkpoint_digest
from parity.core.gates import DEFAULT_GATE, ISOLATED_GATE
from parity.diagnosis.blind_spots import blind_spots
from parity.diagnosis.heatmaps import HeatMap, heat_maps
from parity.documents.base import document, finding_sections, judgement_section
from parity.documents.cost import cost_section, kernels_section
from parity.documents.pictures import picture_section, png
from parity.engines.dtypes import stored_as
from parity.milestones.phases import PHASES
from parity.runs.case_run import CaseRun
from parity.runs.clock import Spent
from reports.atomic import write_files
from reports.write import write_report


def write_run(
    run: CaseRun,
    folder: Path,
    *,
    environment: Mapping[str, Any],
    performance: Mapping[str, Any] | None = None,
    spent: Spent | None = None,
) -> dict[str, Any]:
    """Write a case's report with its pictures to a folder. Returns the document."""
    maps = heat_maps(run.inputs, run.result.findings) if run.inputs is not None else []
    made = run_document(run, maps, environment=environment, performance=performance, spent=spent)
    write_files({folder / _picture_file(index): png(heat_map) for index, heat_map in enumerate(maps)})
    write_report(made, folder)
    return made


def run_document(
    run: CaseRun,
    maps: Sequence[HeatMap],
    *,
    environment: Mapping[str, Any],
    performance: Mapping[str, Any] | None,
    spent: Spent | None = None,
) -> dict[str, Any]:
    """Return the document of one case. ``_picture_file`` gives the paths of its pictures."""
    return document(
        "run",
        environment,
        **_sides(run),
        kernels=kernels_section(run),
        checkpoint=_checkpoint(run),
        case=_case(run),
        gate={
            "rule": f"{DEFAULT_GATE.describe()}; isolated: {ISOLATED_GATE.m:g} x its own floor, "
            f"{ISOLATED_GATE.m_attention:g} x after a softmax",
            "m": DEFAULT_GATE.m,
            "ulp_floor": DEFAULT_GATE.ulp_floor(stored_as(run.dtype)),
            "floor_runs": run.floor_runs,
        },
        verdict=judgement_section(run.result.judgement),
        findings=finding_sections(run.result.findings),
        logits=_logits([f.logits for f in run.result.findings if f.logits is not None]),
        pictures=[picture_section(heat_map, _picture_file(index)) for index, heat_map in enumerate(maps)],
        blind_spots=blind_spots(run),
        cost=cost_section(run, spent),
        performance=None if performance is None else dict(performance),
    )


def _sides(run: CaseRun) -> dict[str, dict[str, str]]:
    subject = {"name": "port", "detail": "" if run.subject is None else run.subject.detail, "dtype": run.dtype}
    judged = run.model or run.generation
    if judged is not None:
        engine = judged.reference
        reference = {"name": engine.name, "detail": engine.detail, "dtype": engine.dtype}
    elif run.case.stages == ("weights",):
        name, detail = "checkpoint files and torch.nn.Conv3d", str(torch.__version__)
        reference = {"name": name, "detail": detail, "dtype": run.dtype}
    elif run.case.stages[0] in ("calls", "refusals"):
        described = run.stages[0].yardstick.trace.description
        reference = {"name": described.producer, "detail": described.detail, "dtype": described.dtype}
    else:
        reference = {"name": "transformers", "detail": "processor", "dtype": run.dtype}
    return {"subject": subject, "reference": reference}


def _checkpoint(run: CaseRun) -> dict[str, Any]:
    folder, spec = run.folder, run.case.checkpoint
    if not run.own_checkpoint:
        name = folder.name
    elif isinstance(spec, SeededCheckpoint):
        name = f"seeded {spec.shape}, seed {spec.seed}"
    else:
        assert isinstance(spec, TrainedCheckpoint)
        name = "the trained model"
    return {
        "name": name,
        "path": str(folder),
        "sha256": checkpoint_digest(folder),
        "parameters": _parameters(folder),
        "tied": run.config["tie_word_embeddings"],
    }


def _parameters(folder: Path) -> int:
    """Return how many numbers the files of a checkpoint hold."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total


def _case(run: CaseRun) -> dict[str, Any]:
    case, inputs = run.case, run.inputs
    counts = [] if inputs is None else inputs.tensors["attention_mask"].sum(dim=1).tolist()
    steps = ["prefill", *(f"decode {step + 1}" for step in range(case.decode_steps))]
    tokens = [] if run.model is None else run.model.tokens.tolist()
    return {
        "name": case.name,
        "title": case.title,
        "phase": case.phase,
        "phase_title": PHASES[case.phase],
        "mode": case.mode,
        "batch": len(case.rows),
        "padding_side": None if inputs is None else case.padding_side,
        "rows": [
            {
                "text": " ".join(part if isinstance(part, str) else f"[{part.title}]" for part in row),
                "images": sum(is_picture(part) for part in row),
                "videos": sum(not isinstance(part, str) and not is_picture(part) for part in row),
                "tokens": count,
            }
            for row, count in zip(case.rows, counts, strict=True)
        ],
        "steps": steps if "model" in case.stages else list(case.stages),
        # The reference generated these tokens greedily, and both sides were fed with them.
        "generated": [
            {"row": row, "token_ids": ids, "text": text}
            for row, (ids, text) in enumerate(zip(tokens, run.texts, strict=True))
        ],
    }


def _picture_file(index: int) -> str:
    """Return the path of picture ``index`` in a report folder."""
    return f"pictures/image-{index}.png"


def _logits(parts: Sequence[Logits]) -> dict[str, Any] | None:
    if not parts:
        return None
    worst = max(parts, key=lambda part: part.kl_max)
    return {
        "kl_max": worst.kl_max,
        "kl_row": worst.kl_row,
        "top1_agree": sum(part.top1_agree for part in parts),
        "top1_total": sum(part.top1_total for part in parts),
    }
