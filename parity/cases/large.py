"""Large cases for ``run`` and ``calibrate``: long sums, where orders of summation differ most. Minutes each."""

from __future__ import annotations

from parity.cases.case import Case, SeededCheckpoint
from parity.cases.media import Noise

# The tiny shape with the pixel limits of the released checkpoints, so that a large picture stays large.
TINY_LARGE = SeededCheckpoint("tiny-large")


def large_cases() -> list[Case]:
    return [
        Case(
            "large-picture",
            "a picture of 3,968 patches",
            4,
            TINY_LARGE,
            (("Large: ", Noise(1024, 992, seed=11), " so?"),),
            decode_steps=1,
            stages=("model",),
        ),
        Case(
            "medium-pictures",
            "two pictures, of 936 and 1,008 patches",
            4,
            TINY_LARGE,
            (("One ", Noise(576, 416, seed=12), " and two ", Noise(576, 448, seed=13), " so?"),),
            decode_steps=1,
            stages=("model",),
        ),
        Case("long-text", "2,000 tokens of text", 4, TINY_LARGE, (("word " * 2000,),), decode_steps=1),
        Case("long-keys", "4,000 tokens of text", 4, TINY_LARGE, (("word " * 4000,),), decode_steps=1),
    ]
