"""The inputs on which mutants are tried: cases of the standard suite, and requests that disturb each other."""

from __future__ import annotations

from dataclasses import dataclass

from parity.qwen3vl.cases import LANDSCAPE, ODD, PORTRAIT, SMALL, TINY, Case, Row, standard_suite
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.media import Clip, Noise, is_picture

# More tokens than bfloat16 counts exactly (256).
LONG_TEXT = "word " * 150


@dataclass(frozen=True)
class Trial:
    """A case; ``before`` and ``between`` are requests that the same port object serves first, and between the
    case's prefill and its first decode step."""

    case: Case
    before: tuple[Case, ...] = ()
    between: tuple[Case, ...] = ()

    @property
    def name(self) -> str:
        return self.case.name


def traits(trial: Trial, inputs: CaseInputs | None) -> frozenset[str]:
    """What there is in a trial that a mistake may need to show; ``inputs`` is None for a check of weights."""
    checkpoint = trial.case.checkpoint
    if inputs is None:
        return frozenset({"weights"})
    tensors, vision, text = inputs.tensors, inputs.config["vision_config"], inputs.config["text_config"]
    side = round(vision["num_position_embeddings"] ** 0.5)
    grids = [tensors[name].tolist() for name in ("image_grid_thw", "video_grid_thw") if name in tensors]
    lengths = [[h * w for t, h, w in each for _ in range(t)] for each in grids]
    rows = [[not isinstance(part, str) for part in row] for row in trial.case.rows]
    tokens = tensors["input_ids"].shape[1]
    padded = bool((tensors["attention_mask"] == 0).any())
    found = {
        "forward": True,
        "picture": bool(grids),
        "pictures": any(sum(row) > 1 for row in rows),
        "pictures in two rows": "image_grid_thw" in tensors and sum(map(_has_picture, trial.case.rows)) > 1,
        "picture in a later row": any(map(any, rows[1:])),
        "segments": any(len(each) > 1 for each in lengths),
        "unequal segments": any(len(set(each)) > 1 or len(each) > 2 for each in lengths),
        "large picture": any(max(each) ** 2 * vision["num_heads"] > 2**15 for each in lengths),
        "larger than the table": any(max(h, w) > side for each in grids for _, h, w in each),
        "video": "video_grid_thw" in tensors,
        "video first": any(map(_video_first, trial.case.rows)),
        "batch": padded,
        "left": padded and trial.case.padding_side == "left",
        "right": padded and trial.case.padding_side == "right",
        "chunked": inputs.chunks > 1,
        "requests": bool(trial.before or trial.between),
        "50 positions": tokens > 70,
        "long": any(LONG_TEXT in row for row in trial.case.rows),
        "short": tokens < text["hidden_size"],
        "untied": not inputs.config["tie_word_embeddings"],
        "text flag": checkpoint.text_tie_flag is not None,
        "rope parameters": checkpoint.rope_dialect == "rope_parameters",
        "several taps": len(vision["deepstack_visual_indexes"]) > 1,
        "five layers": text["num_hidden_layers"] == 5,
    }
    return frozenset(name for name, there in found.items() if there)


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
)


def trials() -> dict[str, Trial]:
    """Every input on which mutants can be tried."""
    suite = {case.name: case for case in standard_suite()}
    return {trial.name: trial for trial in [*(Trial(suite[name]) for name in _FROM_SUITE), *_extra()]}


def _extra() -> list[Trial]:
    def request(*row: object, name: str = "", title: str = "") -> Case:
        return Case(name, title, 4, TINY, (row,))  # type: ignore[arg-type]

    return [
        Trial(
            request(
                "Twice: ",
                LANDSCAPE,
                " and what?",
                name="other-requests",
                title="other requests before the prefill and before the first decode step",
            ),
            # The same tokens and grid, other pixels; then other tokens, other grids.
            before=(request("Twice: ", Noise(320, 128, seed=5), " and what?"),),
            between=(request("Something else: ", PORTRAIT, SMALL, " Is it longer than the first?"),),
        ),
        Trial(request(LONG_TEXT, LANDSCAPE, " end", name="long", title="a picture after 256 positions and more")),
        Trial(
            Case("odd-batch", "merge 3, temporal patch 4, right padding, chunks", 4, ODD,
                 ((Clip(9, 126, 168), " so ", Noise(210, 126, seed=4)), ("Short.", Noise(126, 168, seed=6))),
                 padding_side="right", chunk=19)
        ),
    ]  # fmt: skip


def _has_picture(row: Row) -> bool:
    return any(is_picture(part) for part in row)


def _video_first(row: Row) -> bool:
    kinds = ["video" if isinstance(part, Clip) else "picture" for part in row if not isinstance(part, str)]
    return "video" in kinds and "picture" in kinds[kinds.index("video") :]
