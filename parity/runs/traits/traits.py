"""Traits: what a case contains that a mistake may need to become visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.cases.case import Case, Row
from parity.cases.further import LONG_TEXT
from parity.cases.media import Encoded, VideoFile, VideoHeader, is_picture
from parity.core.trace import PADDING, SeamKey, Trace
from parity.runs.inputs import CaseInputs
from parity.runs.stages.generation_stage import GenerationStage
from parity.runs.stages.model_stage import ModelStage
from parity.runs.stages.processor_stage import ProcessorStage
from parity.runs.stages.stage import Stage
from parity.runs.traits.further import case_traits, request_traits, size_traits
from parity.runs.traits.generation import generation_traits
from reference.media import PicturePath, VideoPath

# Below this mean square of a row, eps 1e-5 instead of 1e-6 changes the normalised row by more than twice the rounding
# of float32.
FAINT = 16.0


# Traits that are read from the checkpoint that a case asks for.
OF_THE_CHECKPOINT = frozenset({"set *", "stored as *", "two templates", "text flag", "rope parameters"})


def traits(case: Case, stage: Stage[Any], inputs: CaseInputs | None) -> frozenset[str]:
    """The traits of a case that matter for one of its stages. Every case has ``forward`` and ``weights``."""
    if isinstance(stage, ModelStage) and inputs is not None:
        return model_traits(case, inputs, stage.yardstick.trace)
    if isinstance(stage, GenerationStage) and inputs is not None:
        return generation_traits(stage, inputs)
    if isinstance(stage, ProcessorStage):
        return processor_traits(case, stage)
    if stage.name == "calls":
        return frozenset({"other calls", case.padding_side})
    if stage.name == "refusals":
        return frozenset({"bad ties" if "tie" in case.bad_input else "bad input"})
    return frozenset({"weights"})


def model_traits(case: Case, inputs: CaseInputs, trace: Trace) -> frozenset[str]:
    """The traits that mistakes in the model may need. ``trace`` is the yardstick's."""
    checkpoint = case.checkpoint
    tensors, vision, text = inputs.tensors, inputs.config["vision_config"], inputs.config["text_config"]
    side = round(vision["num_position_embeddings"] ** 0.5)
    grids = [tensors[name].tolist() for name in ("image_grid_thw", "video_grid_thw") if name in tensors]
    lengths = [[h * w for t, h, w in each for _ in range(t)] for each in grids]
    rows = [[not isinstance(part, str) for part in row] for row in case.rows]
    tokens, merge = tensors["input_ids"].shape[1], vision["spatial_merge_size"]
    positions, delta = trace.read(SeamKey("text.position_ids", 0)), trace.read(SeamKey("rope_delta", 0))
    padded = bool((tensors["attention_mask"] == 0).any())
    found = {
        "forward": True,
        "image": "image_grid_thw" in tensors,
        "picture": bool(grids),
        "pictures": any(sum(row) > 1 for row in rows),
        "pictures in two rows": "image_grid_thw" in tensors and sum(map(_has_picture, case.rows)) > 1,
        "picture in a later row": any(map(any, rows[1:])),
        "segments": any(len(each) > 1 for each in lengths),
        "unequal segments": any(len(set(each)) > 1 or len(each) > 2 for each in lengths),
        "large picture": any(max(each) ** 2 * vision["num_heads"] > 2**15 for each in lengths),
        "larger than the table": any(max(h, w) > side for each in grids for _, h, w in each),
        "video": "video_grid_thw" in tensors,
        "frames": any(t > 1 for each in grids for t, _, _ in each),
        "rows and columns": any(min(h, w) > merge for each in grids for _, h, w in each),
        "landscape": any(w > h for each in grids for _, h, w in each),
        "rope delta": bool((delta != 0).any()),
        "video first": any(map(_video_first, case.rows)),
        "batch": padded,
        "left": padded and case.padding_side == "left",
        "right": padded and case.padding_side == "right",
        "chunked": inputs.chunks > 1,
        "requests": bool(case.before or case.between),
        "48 positions": int(positions.max()) > 48,
        "long": any(LONG_TEXT in row for row in case.rows),
        "short": tokens < text["hidden_size"],
        "untied": not inputs.config["tie_word_embeddings"],
        "text flag": checkpoint.text_tie_flag is not None,
        "rope parameters": checkpoint.rope_dialect == "rope_parameters",
        "several taps": len(vision["deepstack_visual_indexes"]) > 1,
        "grouped heads": text["num_key_value_heads"] < text["num_attention_heads"],
        "five layers": text["num_hidden_layers"] == 5,
        "weights finer than bfloat16": _stored_as(inputs.config) != "bfloat16",
        "faint stream": _faintest(trace, text["num_hidden_layers"] - 1) < FAINT,
        "set rms_norm_eps": text["rms_norm_eps"] != 1e-6,
        "places left to time": _places_left(_section(text)) and int(positions.max()) > 16,
        "other rope_theta": _theta(text) != 5_000_000,
        "attention bias": text["attention_bias"],
    }
    return frozenset((*(name for name, there in found.items() if there), *request_traits(case)))


def _section(text: Mapping[str, Any]) -> Sequence[int]:
    found: Sequence[int] = (text.get("rope_parameters") or text["rope_scaling"])["mrope_section"]
    return found


def _places_left(section: Sequence[int]) -> bool:
    """Whether time takes rotary frequencies at the end that would be the turn of height or width."""
    return any(place >= 3 * section[place % 3] for place in range(sum(section)))


def _theta(text: Mapping[str, Any]) -> float:
    theta: float = (text.get("rope_parameters") or text)["rope_theta"]
    return theta


def _stored_as(config: Mapping[str, Any]) -> str | None:
    """The dtype of the weights, from any of the places in config.json where releases of transformers store it."""
    sections = (config, config["text_config"])
    return next((part[name] for part in sections for name in ("dtype", "torch_dtype") if part.get(name)), None)


def _faintest(trace: Trace, layer: int) -> float:
    """The smallest mean square of a prompt token in the residual stream after a layer."""
    key = SeamKey(f"text.layers.{layer}.out", 0)
    rows = trace.entries()[key].rows
    stream = trace.read(key).astype(np.float64)  # (B, S, C)
    real = trace.labels(rows) != PADDING if rows is not None else np.ones(stream.shape[:2], dtype=bool)
    return float(np.square(stream).mean(axis=-1)[real].min())


def processor_traits(case: Case, stage: ProcessorStage) -> frozenset[str]:
    """The traits that mistakes in the processor may need: what the media and prompts of a case contain."""
    shapes = {entry.key.name: entry.shape for entry in stage.yardstick.trace}
    forms = {part.form for row in case.rows for part in row if isinstance(part, Encoded)}
    seen = 0 if case.grids_only else stage.batch.count(PicturePath)
    images = [_sizes(shapes, f"processor.images.{i}") for i in range(seen)]
    files = [part for row in stage.batch.rows for part in row if isinstance(part, VideoPath) and not case.grids_only]
    headers = [_header(part) for part in files]
    kept = [shapes[f"processor.videos.{i}.frame_indices"][0] for i in range(len(files))]
    settings = stage.settings
    factor = settings.patch * settings.merge
    due = [header.frames / header.fps * (settings.fps or 0) for header in headers]
    found = {
        "image": bool(images),
        "video": bool(files),
        "files renewed": bool(case.before),
        "pictures": any(sum(isinstance(part, PicturePath) for part in row) > 1 for row in stage.batch.rows),
        "batch": 0 in stage.tensors["attention_mask"],
        "turned": "turned" in forms,
        "alpha": "alpha" in forms,
        "grey16": "grey16" in forms,
        "oblong": any(height != width for _, (height, width) in images),
        "resized": any(before != after for before, after in images),
        "shrunk": any(before[0] > 1.5 * after[0] for before, after in images),
        "rounded up": any(after[0] > before[0] or after[1] > before[1] for before, after in images),
        "halves": any(side % factor * 2 == factor and side // factor % 2 == 0 for sides, _ in images for side in sides),
        "narrow": any(max(before) > 150 * min(before) for before, _ in images) and factor > 40,
        "sampled": any(count < header.frames for count, header in zip(kept, headers, strict=True)),
        # The first and the last frame of each group of three are others than those of each temporal patch.
        "frames in threes": settings.temporal_patch != 3 and any(n >= max(3, settings.temporal_patch) for n in kept),
        "few frames": any(count < settings.min_frames for count in due),
        "long video": any(header.frames > 40 and header.width > 128 for header in headers),
        "odd frames": any(count % settings.temporal_patch for count in kept),
        "three frames missing": settings.temporal_patch == 4 and any(count % 4 in (1, 3) for count in kept),
        "two frames a patch": settings.temporal_patch == 2,
    }
    decoded = [shapes[f"processor.videos.{i}.decoded"][:3] for i in range(len(files))]
    videos = [(frames, (height, width)) for frames, height, width in decoded]
    further = (*request_traits(case), *case_traits(case), *size_traits(settings, images, videos))
    return frozenset((*(name for name, there in found.items() if there), *further))


def _header(part: VideoPath) -> VideoHeader:
    header = VideoFile(part.path).probe()
    return header if part.fps is None else replace(header, fps=part.fps)


def _sizes(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of a picture as decoded and as resized."""
    decoded, resized = shapes[f"{name}.decoded"], shapes[f"{name}.resized"]
    return (decoded[0], decoded[1]), (resized[1], resized[2])


def _has_picture(row: Row) -> bool:
    return any(is_picture(part) for part in row)


def _video_first(row: Row) -> bool:
    kinds = ["picture" if is_picture(part) else "video" for part in row if not isinstance(part, str)]
    return "video" in kinds and "picture" in kinds[kinds.index("video") :]
