"""Makes a bundle: runs the reference on each case, and writes what a judge needs. The only part that needs torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from parity.bundles.bundle import BUNDLE_VERSION, Bundle, gate_section
from parity.bundles.checks import check_stage
from parity.bundles.files import BUNDLE, SAFE_PATH, BundleError, digest_of, inventory
from parity.bundles.inputs import SEAM_OF, Inputs
from parity.bundles.tokens.prediction import Known
from parity.bundles.trace import write_trace
from parity.cases.case import Case, SeededCheckpoint, StageName
from parity.cases.media import FrameFolder, GivenFrames, GivenPicture
from parity.cases.media_batch import MediaBatch, write_media_batch
from parity.core.errors import ParityError
from parity.runs.case_run import prepare_stages
from parity.runs.inputs import CaseInputs
from parity.runs.loader import Loader, plain_config
from parity.runs.recorder import to_numpy
from parity.runs.stages.generation_stage import FILE, GenerationStage, Planned
from parity.runs.stages.model_stage import ModelStage
from parity.runs.traits.traits import OF_THE_CHECKPOINT, traits
from parity.runs.yardstick import Progress
from parity.seams.model import Dimensions
from reference.media import ONE_TURN, PicturePath, Turn

_PACKAGES = ("qwen3vl-parity", "transformers", "torch", "numpy", "safetensors")
_CHECKPOINT_FILES = (".json", ".safetensors", ".jinja", ".txt")


@dataclass(frozen=True)
class Recipe:
    """What goes into a bundle. ``named`` is a checkpoint to use instead of each case's own.

    ``checkpoint_limit`` is the largest size in bytes of a checkpoint that is copied; None: none is copied.
    """

    cases: Sequence[Case]
    dtypes: Sequence[str]
    named: Path | None = None
    checkpoint_limit: int | None = None


def make_bundle(folder: Path, recipe: Recipe, loader: Loader, *, progress: Progress = lambda _what: None) -> Bundle:
    """Write a bundle to an empty folder, open it and check it as a judge does.

    Raises ParityError for a case that cannot be bundled or run.
    """
    left_out = [left for case in recipe.cases for left in _left_out(case)]
    records = [_add_case(folder, case, recipe, loader, progress) for case in recipe.cases if _stages(case)]
    if not records:
        raise ParityError(f"no case is left: {left_out[0]['why']}" if left_out else "no case was named")
    document = {
        "schema_version": BUNDLE_VERSION,
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "gate": gate_section(),
        "cases": records,
        "left_out": left_out,
        "files": inventory(folder),
    }
    document["sha256"] = digest_of(document)
    (folder / BUNDLE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    bundle = Bundle(folder)
    for case in bundle.cases.values():
        for stage in case.stages:
            for dtype in case.dtypes_of(stage):
                check_stage(case, stage, dtype)
    return bundle


_BUNDLED: tuple[StageName, ...] = ("processor", "model", "generation")


def _stages(case: Case) -> tuple[StageName, ...]:
    """The stages that a bundle holds. Other conversations and folders of frames have no place in it."""
    if _holds_more(case) or case.grids_only:
        return ()
    return tuple(stage for stage in case.stages if stage in _BUNDLED)


def _holds_more(case: Case) -> bool:
    """Whether a case is more than one turn of the user with files."""
    others = (Turn, FrameFolder, GivenPicture, GivenFrames)
    return case.prompting != ONE_TURN or any(isinstance(part, others) for row in case.rows for part in row)


def _left_out(case: Case) -> Iterator[dict[str, str]]:
    way_out = f"use `parity run --case {case.name}`"
    whys = {
        "weights": "the weights are judged by the checkpoint's own files",
        "calls": "another engine need not have these calls",
        "refusals": "what is refused is asked of the port alone",
    }
    for stage in case.stages:
        if stage in whys:
            yield {"name": f"{case.name}, {stage}", "why": f"{whys[stage]}; {way_out}"}
    if not _stages(case) and set(case.stages) & set(_BUNDLED):
        yield {"name": case.name, "why": f"a bundle holds one turn of the user, with files and all pixels; {way_out}"}


def _add_case(root: Path, case: Case, recipe: Recipe, loader: Loader, progress: Progress) -> dict[str, Any]:
    """Run the reference on a case, once for each dtype, and write its part of the bundle. Returns its record."""
    checkpoint = recipe.named or loader.checkpoint(case.checkpoint)
    place = Path("cases") / case.name
    (root / place).mkdir(parents=True)
    sha256 = loader.digest(checkpoint)
    record: dict[str, Any] = {
        "name": case.name,
        "title": case.title,
        "stages": list(_stages(case)),
        "checkpoint": {
            "name": _name(case, recipe),
            "sha256": sha256,
            "dtype": _stored_dtype(checkpoint, case, recipe),
            "folder": _copied(root, checkpoint, _name(case, recipe), recipe.checkpoint_limit),
        },
        "padding_side": case.padding_side,
        "decode_steps": case.decode_steps,
        "chunk": case.chunk,
        "merge": plain_config(checkpoint)["vision_config"]["spatial_merge_size"],
        "processor": None,
        "model": None,
        "generation": None,
    }
    runnable = replace(case, stages=_stages(case))
    for dtype in recipe.dtypes if {"model", "generation"} & set(case.stages) else recipe.dtypes[:1]:
        inputs, stages = prepare_stages(
            runnable,
            loader,
            dtype=dtype,
            folder=checkpoint,
            own=recipe.named is None,
            config=plain_config(checkpoint),
            progress=partial(_told, progress, f"{case.name}, {dtype}"),
        )
        assert inputs is not None
        floored = [stage for stage in stages if isinstance(stage, ModelStage | GenerationStage)]
        if "rows" not in record:
            # Of another checkpoint than the case's own, what it sets is not known: any of it may be there.
            unknown = OF_THE_CHECKPOINT if recipe.named is not None else frozenset()
            record["traits"] = {stage.name: sorted(traits(case, stage, inputs) | unknown) for stage in stages}
            record |= _requests(root, place / "media", case, inputs)
            fed = _write_inputs(root / place, inputs, floored[0]) if floored else None
            record |= {stage.name: _described(place, inputs, stage) for stage in floored}
            if "processor" in case.stages:
                record["processor"] = {"reference": (place / "reference-processor").as_posix()}
                trace = inputs.processed.yardstick.trace
                folder = root / place / "reference-processor"
                write_trace(trace, folder, checkpoint=sha256, known=Known(fed, record["merge"]))
        for stage in floored:
            known = Known(Inputs(root / place / "inputs.safetensors"), record["merge"])
            record[stage.name]["dtypes"][dtype] = _add_dtype(root, place, dtype, stage, sha256, known)
    return record


def _told(progress: Progress, which: str, what: str) -> None:
    progress(f"{which}: {what}")


def _described(place: Path, inputs: CaseInputs, stage: ModelStage | GenerationStage) -> dict[str, Any]:
    """Return what the bundle says of a stage, without its dtypes."""
    if isinstance(stage, GenerationStage):
        file = (place / "inputs.safetensors").as_posix()
        return {"inputs": file, "requests": [_asked(each) for each in stage.planned], "dtypes": {}}
    dimensions = Dimensions.from_config(inputs.config)
    return {
        "inputs": (place / "inputs.safetensors").as_posix(),
        "vision_depth": dimensions.vision_depth,
        "vision_taps": dimensions.vision_taps,
        "text_layers": dimensions.text_layers,
        "dtypes": {},
    }


def _asked(each: Planned) -> dict[str, Any]:
    """Return what a request asks for, and how much the reference generates."""
    fields = json.loads((each.request.folder / FILE).read_text(encoding="utf-8"))
    return {
        "config": fields,
        "max_new_tokens": each.request.max_new_tokens,
        "seed": each.request.seed,
        "do_sample": each.sampler.do_sample,
        "tokens": len(each.tokens),
    }


def _write_inputs(folder: Path, inputs: CaseInputs, stage: ModelStage | GenerationStage) -> Inputs:
    """Write what the model is fed. For the model stage, also the position ids that the reference makes of it."""
    tensors = {name: to_numpy(tensor) for name, tensor in inputs.tensors.items() if name in SEAM_OF}
    if isinstance(stage, ModelStage):
        tensors["position_ids"] = stage.yardstick.trace.read(SEAM_OF["position_ids"])
    path = folder / "inputs.safetensors"
    save_file(tensors, path)
    return Inputs(path)


def _add_dtype(
    root: Path, place: Path, dtype: str, stage: ModelStage | GenerationStage, sha256: str, known: Known
) -> dict[str, Any]:
    """Write floors, and the reference unless that of another dtype is the same.

    It is the same if the checkpoint's numbers fit into both dtypes. Otherwise their weights differ by rounding.
    """
    folder = root / place / f"reference-{dtype}"
    write_trace(stage.yardstick.trace, folder, checkpoint=sha256, known=known)
    others = (other for other in sorted((root / place).glob("reference*")) if other.name != folder.name)
    same = next((other for other in others if inventory(other) == inventory(folder)), None)
    if same is not None:
        shutil.rmtree(folder)
    elif not (root / place / "reference").exists():
        same = folder.rename(root / place / "reference")
    floors = f"floors-{dtype}.safetensors"
    stage.yardstick.floors.save(root / place / floors)
    part = {
        "reference": (place / (same or folder).name).as_posix(),
        "floors": (place / floors).as_posix(),
        "floor_runs": list(stage.yardstick.runs),
    }
    return part if isinstance(stage, GenerationStage) else {**part, "decode_tokens": stage.tokens.tolist()}


def _requests(root: Path, media: Path, case: Case, inputs: CaseInputs) -> dict[str, Any]:
    """Copy the media of the case and of the other requests that its model serves. Returns the conversations."""
    before = [other for other in case.before if other.fault is None]
    return {
        "rows": _rows(root, media, inputs.processed.batch),
        "before": [_request(root, media / f"before-{at}", other) for at, other in enumerate(before)],
        "between": [_request(root, media / f"between-{at}", other) for at, other in enumerate(case.between)],
    }


def _request(root: Path, media: Path, case: Case) -> dict[str, Any]:
    batch = write_media_batch(case.rows, case.padding_side)
    return {"rows": _rows(root, media, batch), "padding_side": case.padding_side}


def _rows(root: Path, media: Path, batch: MediaBatch) -> list[list[dict[str, str]]]:
    rows: list[list[dict[str, str]]] = []
    for at, row in enumerate(batch.rows):
        rows.append([])
        for number, part in enumerate(row):
            if isinstance(part, str):
                rows[-1].append({"type": "text", "text": part})
                continue
            file = media / f"{at}-{number}{part.path.suffix.lower()}"
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part.path, root / file)
            kind = "image" if isinstance(part, PicturePath) else "video"
            rows[-1].append({"type": kind, "file": file.as_posix()})
    return rows


def _name(case: Case, recipe: Recipe) -> str:
    if recipe.named is not None:
        return recipe.named.resolve().name
    return case.checkpoint.label


def _stored_dtype(checkpoint: Path, case: Case, recipe: Recipe) -> str:
    if recipe.named is None and isinstance(case.checkpoint, SeededCheckpoint):
        return case.checkpoint.dtype
    config = plain_config(checkpoint)
    found = config.get("dtype") or config.get("torch_dtype") or config.get("text_config", {}).get("dtype")
    return str(found or "unknown")


def _copied(root: Path, checkpoint: Path, name: str, limit: int | None) -> str | None:
    """Copy a checkpoint to the bundle, once. Returns its folder there, or None if it is not asked for."""
    if limit is None:
        return None
    if not SAFE_PATH.fullmatch(name):
        raise BundleError(f"the checkpoint's folder is named {name!r}; rename it to letters, digits, '.', '_' and '-'")
    files = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.suffix in _CHECKPOINT_FILES]
    size = sum(path.stat().st_size for path in files)
    if size > limit:
        raise BundleError(
            f"the checkpoint {name} has {size / 1e6:,.1f} MB, at most {limit / 1e6:,.1f} MB are copied; raise "
            "--checkpoint-limit, or leave --with-checkpoint out"
        )
    place = Path("checkpoint") / name
    if not (root / place).exists():
        (root / place).mkdir(parents=True)
        for path in files:
            shutil.copyfile(path, root / place / path.name)
    return place.as_posix()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
