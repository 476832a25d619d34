"""The cases of the standard suite.

Each names the phase of the integration that it tests. Most checkpoints are seeded and tiny. Together they avoid the
special cases in which bugs do not show: they have heads * head_dim != hidden size, tied and untied heads, taps other
than 0..n-1, grids smaller and larger than the position table and with one merged row, portrait and landscape pictures,
unequal segments, patch merge != temporal patch, and pictures that are not at position 0. One checkpoint is trained. It
has what seeded weights lack: peaked logits, and attention to few places.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from parity.cases.case import ODD, TIED, TINY, TRAINED, Case, Checkpoint, Row, SeededCheckpoint
from parity.cases.conversations import conversation_cases
from parity.cases.generation import generation_cases
from parity.cases.limits import limit_cases
from parity.cases.loading import loading_cases
from parity.cases.media import FORMATS, Clip, Encoded, Noise, Photo, scene_row
from parity.cases.state import state_cases

PHOTO = Photo((192, 256))
PORTRAIT = Photo((96, 320))
LANDSCAPE = Noise(320, 128, seed=1)
STRIP = Noise(640, 32, seed=2)
SMALL = Noise(64, 96, seed=3)
CLIP = Clip(8, 128, 96)
LONG_CLIP = Clip(13, 96, 160, fps=3.0)

_MIXED: tuple[Row, ...] = (
    ("Compare: ", LANDSCAPE, " and ", PORTRAIT, ", please."),
    ("No picture here, only a question about nothing.",),
    ("What moves? ", CLIP, " Answer."),
    ("Before it: ", LONG_CLIP, " after it: ", SMALL),
    (PHOTO, "Who is this?"),
    ("Hi.",),
    ("a ", SMALL, " b ", STRIP, " c ", LANDSCAPE, " d ", PHOTO),
    ("The last one: ", SMALL, " is small."),
)


def photo_case(checkpoint: Checkpoint = TINY) -> Case:
    """Return the case of ``parity run seeded``: a real photo and a question."""
    return Case("photo", "a real photo and a question", 1, checkpoint, (("Who is this? ", Photo((256, 304))),))


def trained_case() -> Case:
    """Return the default case of ``parity run``: the trained model is asked about a held-out picture."""
    return Case("trained-picture", "the trained model, asked about a picture", 1, TRAINED, (scene_row(0),))


def standard_suite() -> list[Case]:
    """Return every case of ``parity suite`` that the installed transformers can run, by phase."""
    cases = [
        *_phase_1(),
        *loading_cases(),
        *conversation_cases(),
        *limit_cases(),
        *_phase_2(),
        *_phase_3(),
        *_phase_4(),
        *state_cases(),
        *generation_cases(),
    ]
    installed = _installed()
    return sorted((case for case in cases if case.since <= installed), key=lambda case: case.phase)


def _installed() -> tuple[int, int]:
    """The release of transformers; the newest if there is none, as where cases are only listed."""
    try:
        major, minor, *_ = version("transformers").split(".")
    except PackageNotFoundError:
        return sys.maxsize, 0
    return int(major), int(minor)


def _phase_1() -> Sequence[Case]:
    return [
        Case("text", "text alone", 1, rows=(("How many legs has a spider? Think, then answer.",),)),
        photo_case(),
        Case("portrait", "a portrait grid, higher than the position table", 1, rows=(("See ", PORTRAIT, " there"),)),
        Case("strip", "one merged row, wider than the position table", 1, rows=(("A strip: ", STRIP),)),
        Case(
            "four-pictures",
            "four pictures of unequal size in one prompt",
            1,
            rows=(("1 ", SMALL, " 2 ", LANDSCAPE, " 3 ", PORTRAIT, " 4 ", PHOTO, " which?"),),
        ),
        Case("video", "a video, every frame a segment", 1, rows=(("What moves? ", CLIP, " Tell me."),)),
        Case(
            "video-before-picture",
            "a video before a picture",
            1,
            rows=(("First ", LONG_CLIP, " then ", LANDSCAPE, " and?"),),
        ),
        Case(
            "picture-first",
            "a picture at the start and text longer than the hidden size",
            1,
            rows=((SMALL, "word " * 90),),
        ),
        Case(
            "odd-shape",
            "merge 3, temporal patch 4, patch 14: a picture and a video",
            1,
            ODD,
            (("Look: ", Noise(210, 126, seed=4), " and ", Clip(9, 126, 168), " so?"),),
        ),
        Case(
            "rope-parameters",
            "the config dialect of transformers 5",
            1,
            SeededCheckpoint("tiny", rope_dialect="rope_parameters"),
            (("Same ", SMALL, " picture"),),
        ),
        Case(
            "legacy-layout",
            "the older key layout (visual.*, model.*)",
            1,
            SeededCheckpoint("tiny", layout="legacy"),
            (("Same ", SMALL, " picture"),),
        ),
        Case(
            "shards",
            "a checkpoint in shards with an index",
            1,
            SeededCheckpoint("tiny", max_shard_bytes=200_000),
            (("Same ", SMALL, " picture"),),
        ),
        Case("chunked", "prefill in chunks that cut a picture", 1, rows=_MIXED[:1], chunk=17),
        Case(
            "formats",
            "JPEG, EXIF orientation, alpha, palette, grey, 16 bits, CMYK, and two that are resized",
            1,
            rows=(
                (*(part for form in FORMATS for part in (f"{form}: ", Encoded(Photo((70, 90)), form))),),
                ("Shrunk ", Photo(), " and grown ", Noise(20, 45, seed=7)),
            ),
        ),
        trained_case(),
        Case("trained-clip", "the trained model, asked about a clip", 1, TRAINED, (scene_row(0, clip=True),)),
        Case(
            "clip-sampled",
            "a clip of which few frames are kept, an odd number, resized",
            1,
            rows=(("See ", Clip(55, 100, 76, fps=20.0), " so?"),),
        ),
    ]


def _phase_2() -> Sequence[Case]:
    return [
        Case("conv3d-tiny", "every tensor, and weight() of temporal kernel 2", 2, TINY, stages=("weights",)),
        Case("conv3d-odd", "every tensor, and weight() of temporal kernel 4, patch 14", 2, ODD, stages=("weights",)),
        Case(
            "conv3d-bfloat16",
            "every tensor of a bfloat16 checkpoint",
            2,
            SeededCheckpoint("tiny-tied", dtype="bfloat16"),
            stages=("weights",),
        ),
        Case("tied-weights", "every tensor of a tied checkpoint", 2, TIED, stages=("weights",)),
    ]


def _phase_3() -> Sequence[Case]:
    rows: tuple[Row, ...] = (("Tied? ", SMALL, " Or not?"),)
    return [
        Case("tied", "tied, without an lm_head.weight", 3, TIED, rows),
        Case("tied-with-head", "tied, with a redundant lm_head.weight", 3, _tied(lm_head_entry=True), rows),
        Case("tied-text-says-no", "tied at the top level, untied in text_config", 3, _tied(text_tie_flag=False), rows),
        Case(
            "untied-text-says-yes",
            "untied at the top level, tied in text_config",
            3,
            SeededCheckpoint("tiny-tied", tied=False, text_tie_flag=True),
            rows,
        ),
        Case("untied", "untied", 3, SeededCheckpoint("tiny-tied", tied=False), rows),
        Case(
            "tied-bad-input",
            "no flag, a flag that is none, and another head are refused",
            3,
            TINY,
            rows,
            stages=("refusals",),
            bad_input=("tie",),
        ),
    ]


def _tied(*, lm_head_entry: bool | None = None, text_tie_flag: bool | None = None) -> SeededCheckpoint:
    return SeededCheckpoint("tiny-tied", tied=True, lm_head_entry=lm_head_entry, text_tie_flag=text_tie_flag)


def _phase_4() -> Sequence[Case]:
    pair = (_MIXED[4], _MIXED[0])
    return [
        Case("batch-1", "one row", 4, TIED, (_MIXED[0],)),
        Case("batch-2-left", "two rows of unequal grids, padded left", 4, TINY, pair),
        Case("batch-2-right", "two rows of unequal grids, padded right", 4, TINY, pair, padding_side="right"),
        Case("batch-2-text", "two rows of text, padded left", 4, TINY, (_MIXED[1], _MIXED[5])),
        Case("batch-3", "pictures, text and a video", 4, TINY, _MIXED[:3]),
        Case("batch-3-tied", "text, a video and a picture, tied", 4, TIED, _MIXED[1:4]),
        Case("batch-8", "eight rows of everything, padded left", 4, TINY, _MIXED),
        Case("batch-8-right", "eight rows of everything, padded right", 4, TIED, _MIXED, padding_side="right"),
        Case("batch-3-chunked", "three rows, prefill in chunks", 4, TINY, _MIXED[2:5], chunk=23),
        Case(
            "trained-batch",
            "eight questions to the trained model, padded left",
            4,
            TRAINED,
            tuple(scene_row(number, clip=number % 3 == 2) for number in range(8)),
        ),
        Case("batch-3-odd", "three rows, merge 3, temporal patch 4", 4, ODD, (_MIXED[2], _MIXED[7], _MIXED[5])),
    ]
