"""Cases about loading: other numbers in config.json, and other ways to store the same checkpoint."""

from __future__ import annotations

import json

from parity.cases.case import OTHER, TINY, Case, Row, SeededCheckpoint
from parity.cases.media import Clip, Noise
from reference.media import Turn

_ROW: Row = ("Same ", Noise(64, 96, seed=3), " picture")
_REASONED: Row = (Turn("user", "Why?"), Turn("assistant", "So.", json.dumps({"reasoning": "Because."})), "And?")


def loading_cases() -> list[Case]:
    """Return the cases about loading. They belong to phase 1, and their weights to phase 2."""
    return [
        Case(
            "other-shape",
            "numbers that no other shape has: 4 x 4 merged patches, 3 frames a patch, attention biases, one kv head",
            1,
            OTHER,
            (("Look: ", Noise(150, 70, seed=4), " and ", Clip(10, 96, 64, fps=2.0), " so?"), ("Short.",)),
        ),
        Case("other-shape-weights", "every tensor of that shape", 2, OTHER, stages=("weights",)),
        _stored("stored-float16", "weights stored in float16", SeededCheckpoint("tiny-tied", dtype="float16")),
        _stored("stored-mixed", "weights stored in three dtypes", SeededCheckpoint("tiny", rewrites=("mixed-dtypes",))),
        _stored(
            "stored-oddly",
            "an index that names a single file, whose tensors begin anywhere",
            SeededCheckpoint("tiny", rewrites=("misaligned", "index-of-one")),
        ),
        Case(
            "template-places",
            "a chat template in each of its places, of which the first counts",
            1,
            SeededCheckpoint("tiny", rewrites=("tools-in-json",)),
            (_REASONED,),
            stages=("processor",),
            since=(5, 24),
        ),
        Case(
            "template-in-jinja",
            "a chat template in its own file alone",
            1,
            SeededCheckpoint("tiny", rewrites=("tools-in-jinja",)),
            (_REASONED,),
            stages=("processor",),
            since=(5, 24),
        ),
        Case(
            "bad-input",
            "bad conversations, media, tensors and checkpoints of every kind are refused",
            1,
            TINY,
            (_ROW,),
            stages=("refusals",),
            bad_input=("conversation", "media", "tensors", "config", "settings", "checkpoint"),
        ),
    ]


def _stored(name: str, title: str, checkpoint: SeededCheckpoint) -> Case:
    return Case(name, title, 1, checkpoint, (_ROW,), decode_steps=1, stages=("model",))
