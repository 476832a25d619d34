"""The inputs on which mutants are tried: cases of the standard suite, and requests that disturb each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from parity.core.trace import PADDING, SeamKey, Trace
from parity.qwen3vl.cases import LANDSCAPE, ODD, PORTRAIT, SMALL, TINY, Case, Row, SeededCheckpoint, standard_suite
from parity.qwen3vl.front import Front
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.media import FORMATS, Clip, Encoded, Noise, Photo, VideoFile, is_picture
from port.mrope import mrope_positions
from reference.processor import PicturePath, VideoPath

# Mean square of a row up to which an eps of 1e-5 for 1e-6 moves its norm by more than float32's rounding, twofold.
FAINT = 16.0
# More tokens than bfloat16 counts exactly (256).
LONG_TEXT = "word " * 150
# What catches every mistake in as few forwards as possible, which ``parity mutants`` proves anew each time; and the
# trained model, whose activations are not those of weights from a seed.
DEFAULT = (
    "batch-3-chunked",
    "long-right",
    "config-traps",
    "other-requests",
    "conv3d-odd",
    "processor",
    "processor-odd",
    "seeing-batch",
)


@dataclass(frozen=True)
class Trial:
    """A case; ``before`` and ``between`` are requests that the same port object serves first, and between the
    case's prefill and its first decode step. With ``front``, only the processor runs, from the files on."""

    case: Case
    before: tuple[Case, ...] = ()
    between: tuple[Case, ...] = ()
    front: bool = False

    @property
    def name(self) -> str:
        return self.case.name


def traits(trial: Trial, inputs: CaseInputs | None, trace: Trace | None) -> frozenset[str]:
    """What there is in a trial that a mistake may need to show.

    ``trace`` is the yardstick's; both are None for a check of weights, which has neither.
    """
    checkpoint = trial.case.checkpoint
    if inputs is None or trace is None:
        return frozenset({"weights"})
    tensors, vision, text = inputs.tensors, inputs.config["vision_config"], inputs.config["text_config"]
    side = round(vision["num_position_embeddings"] ** 0.5)
    grids = [tensors[name].tolist() for name in ("image_grid_thw", "video_grid_thw") if name in tensors]
    lengths = [[h * w for t, h, w in each for _ in range(t)] for each in grids]
    rows = [[not isinstance(part, str) for part in row] for row in trial.case.rows]
    tokens, merge = tensors["input_ids"].shape[1], vision["spatial_merge_size"]
    positions, delta = _positions(inputs)
    padded = bool((tensors["attention_mask"] == 0).any())
    found = {
        "forward": True,
        "image": "image_grid_thw" in tensors,
        "picture": bool(grids),
        "pictures": any(sum(row) > 1 for row in rows),
        "pictures in two rows": "image_grid_thw" in tensors and sum(map(_has_picture, trial.case.rows)) > 1,
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
        "video first": any(map(_video_first, trial.case.rows)),
        "batch": padded,
        "left": padded and trial.case.padding_side == "left",
        "right": padded and trial.case.padding_side == "right",
        "chunked": inputs.chunks > 1,
        "requests": bool(trial.before or trial.between),
        "48 positions": int(positions.max()) > 48,
        "long": any(LONG_TEXT in row for row in trial.case.rows),
        "short": tokens < text["hidden_size"],
        "untied": not inputs.config["tie_word_embeddings"],
        "text flag": checkpoint.text_tie_flag is not None,
        "rope parameters": checkpoint.rope_dialect == "rope_parameters",
        "several taps": len(vision["deepstack_visual_indexes"]) > 1,
        "grouped heads": text["num_key_value_heads"] < text["num_attention_heads"],
        "five layers": text["num_hidden_layers"] == 5,
        "weights finer than bfloat16": _stored_as(inputs.config) != "bfloat16",
        "faint stream": _faintest(trace, text["num_hidden_layers"] - 1) < FAINT,
    }
    return frozenset(name for name, there in found.items() if there)


def _stored_as(config: Mapping[str, Any]) -> str | None:
    """The weights' dtype as config.json has it, in any of the places where releases of transformers put it."""
    sections = (config, config["text_config"])
    return next((part[name] for part in sections for name in ("dtype", "torch_dtype") if part.get(name)), None)


def _faintest(trace: Trace, layer: int) -> float:
    """The smallest mean square of a prompt token in the text stream after a layer."""
    key = SeamKey(f"text.layers.{layer}.out", 0)
    rows = trace.entries()[key].rows
    stream = trace.read(key).astype(np.float64)  # (B, S, C)
    real = trace.labels(rows) != PADDING if rows is not None else np.ones(stream.shape[:2], dtype=bool)
    return float(np.square(stream).mean(axis=-1)[real].min())


def front_traits(trial: Trial, front: Front) -> frozenset[str]:
    """As ``traits``, of the media and the prompt that a processor works on."""
    shapes = {entry.key.name: entry.shape for entry in front.trace}
    forms = {part.form for row in trial.case.rows for part in row if isinstance(part, Encoded)}
    images = [_sizes(shapes, f"processor.images.{i}") for i in range(front.material.count(PicturePath))]
    files = [part for row in front.material.rows for part in row if isinstance(part, VideoPath)]
    headers = [VideoFile(part.path).probe() for part in files]
    kept = [shapes[f"processor.videos.{i}.frame_indices"][0] for i in range(len(files))]
    rules = front.rules
    factor = rules.patch * rules.merge
    due = [header.frames / header.fps * (rules.fps or 0) for header in headers]
    found = {
        "processor": True,
        "image": bool(images),
        "video": bool(files),
        "pictures": any(sum(isinstance(part, PicturePath) for part in row) > 1 for row in front.material.rows),
        "batch": 0 in front.tensors["attention_mask"],
        "turned": "turned" in forms,
        "alpha": "alpha" in forms,
        "grey16": "grey16" in forms,
        "resized": any(before != after for before, after in images),
        "shrunk": any(before[0] > 1.5 * after[0] for before, after in images),
        "rounded up": any(after[0] > before[0] or after[1] > before[1] for before, after in images),
        "halves": any(side % factor * 2 == factor and side // factor % 2 == 0 for sides, _ in images for side in sides),
        "narrow": any(max(before) > 150 * min(before) for before, _ in images) and factor > 40,
        "sampled": any(count < header.frames for count, header in zip(kept, headers, strict=True)),
        "few frames": any(count < rules.min_frames for count in due),
        "long video": any(header.frames > 40 and header.width > 128 for header in headers),
        "odd frames": any(count % rules.temporal_patch for count in kept),
        "three frames missing": rules.temporal_patch == 4 and any(count % 4 in (1, 3) for count in kept),
        "merge is not temporal patch": rules.temporal_patch != rules.merge,
        "two frames a patch": rules.temporal_patch == 2,
    }
    return frozenset(name for name, there in found.items() if there)


def _sizes(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of a picture as decoded and as resized."""
    decoded, resized = shapes[f"{name}.decoded"], shapes[f"{name}.resized"]
    return (decoded[0], decoded[1]), (resized[1], resized[2])


_FROM_SUITE = (
    "text",
    "photo",
    "strip",
    "four-pictures",
    "video",
    "video-before-picture",
    "picture-first",
    "odd-shape",
    "rope-parameters",
    "legacy-layout",
    "shards",
    "chunked",
    "conv3d-odd",
    "tied-text-says-no",
    "untied-text-says-yes",
    "batch-2-left",
    "batch-2-right",
    "batch-3",
    "batch-3-tied",
    "batch-3-chunked",
    "seeing-batch",
)


def trials() -> dict[str, Trial]:
    """Every input on which mutants can be tried."""
    suite = {case.name: case for case in standard_suite()}
    return {trial.name: trial for trial in [*(Trial(suite[name]) for name in _FROM_SUITE), *_extra()]}


def _extra() -> list[Trial]:
    return [
        Trial(
            _request("other-requests", "other requests before it, and before its first decode step", _TWICE),
            # Other tokens and segments of as many patches; the same tokens and grid, but other pixels.
            before=(_request("other", "", _OTHER), _request("same", "", _SAME), _request("other", "", _OTHER)),
            between=(_request("other", "", _OTHER),),
        ),
        Trial(
            Case(
                "long-right",
                "a picture after more than 256 positions, padded right",
                4,
                TINY,
                ((LONG_TEXT, LANDSCAPE, " end"), ("Short: ", PORTRAIT, " row")),
                padding_side="right",
            )
        ),
        Trial(
            Case(
                "config-traps",
                "the dialect of transformers 5, tied at the top, text_config says no; a short prompt",
                3,
                SeededCheckpoint("tiny-tied", tied=True, text_tie_flag=False, rope_dialect="rope_parameters"),
                (("Tied? ", SMALL, " Or not?"),),
            )
        ),
        Trial(
            Case(
                "odd-batch",
                "merge 3, temporal patch 4, right padding, chunks",
                4,
                ODD,
                ((Clip(9, 126, 168), " so ", Noise(210, 126, seed=4)), ("Short.", Noise(126, 168, seed=6))),
                padding_side="right",
                chunk=17,
            )
        ),
        Trial(
            Case(
                "processor",
                "pictures in several formats and clips to sample, from their files",
                1,
                TINY,
                (
                    (
                        *(part for form in FORMATS for part in (f"{form}: ", Encoded(Photo((70, 90)), form))),
                        "and shrunk ",
                        Photo(box=(40, 30, 500, 590)),
                    ),
                    (
                        "Halves ",
                        Noise(208, 80, seed=9),
                        Clip(55, 100, 76, fps=20.0),
                        " then ",
                        Clip(48, 192, 160),
                        Clip(8, 64, 96, fps=8.0),
                    ),
                ),
            ),
            front=True,
        ),
        Trial(
            Case(
                "processor-odd",
                "merge 3, temporal patch 4, patch 14: a very narrow picture and clips that fill no patch",
                1,
                ODD,
                (
                    ("Thin ", Noise(9000, 50, seed=10), Clip(10, 126, 168), " so ", Clip(9, 64, 96, fps=3.0)),
                    ("Short.",),
                ),
            ),
            front=True,
        ),
    ]


def _request(name: str, title: str, row: Row) -> Case:
    return Case(name, title, 4, TINY, (row,))


_TWICE: Row = ("Twice: ", LANDSCAPE, " and what?")
_SAME: Row = ("Twice: ", Noise(320, 128, seed=5), " and what?")
_OTHER: Row = ("Something else: ", PORTRAIT, Noise(160, 64, seed=8), " Is it longer than the first?")


def _positions(inputs: CaseInputs) -> tuple[Tensor, Tensor]:
    """position_ids (3, B, S) and rope_delta (B, 1) of the prompts."""
    tensors, config = inputs.tensors, inputs.config
    return mrope_positions(
        tensors["input_ids"],
        tensors["attention_mask"],
        image_grid_thw=tensors.get("image_grid_thw"),
        video_grid_thw=tensors.get("video_grid_thw"),
        image_token_id=config["image_token_id"],
        video_token_id=config["video_token_id"],
        merge=config["vision_config"]["spatial_merge_size"],
    )


def _has_picture(row: Row) -> bool:
    return any(is_picture(part) for part in row)


def _video_first(row: Row) -> bool:
    kinds = ["picture" if is_picture(part) else "video" for part in row if not isinstance(part, str)]
    return "video" in kinds and "picture" in kinds[kinds.index("video") :]
