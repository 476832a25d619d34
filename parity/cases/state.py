"""Cases about state: what one request, or one picture, must not leave to another.

A port may keep something by shape, by a sum, by the ids, by a file's name, by an object's address, or from the first
call. The requests before and between agree with the judged one in such things, and differ in the rest.
"""

from __future__ import annotations

from dataclasses import replace

from parity.cases.case import TINY, Case, Fault, Padding, Row
from parity.cases.media import Changed, Clip, Noise, Photo

_A, _B = Noise(96, 64, seed=21), Noise(64, 128, seed=22)  # grids of 4 x 6 and 8 x 4 patches
_TWO: Row = ("Two: ", _A, " and ", _B, " so?")
# The same ids and sums of patches, but every picture is turned.
_TURNED: Row = ("Two: ", Noise(64, 96, seed=23), " and ", Noise(128, 64, seed=24), " so?")
# The same ids and grids, and pictures that are equal in part, or in their sum.
_IN_PART: Row = ("Two: ", Changed(_A, "middle"), " and ", Changed(_B, "mirrored"), " so?")
_MIRRORED: Row = ("Two: ", Changed(_A, "mirrored"), " and ", _B, " so?")
_LAST_ROW: Row = ("Two: ", Changed(_A, "last"), " and ", _B, " so?")
_EXCHANGED: Row = ("Two: ", _B, " and ", _A, " so?")
# The same sum of patches in one picture.
_ONE: Row = ("One: ", Noise(112, 128, seed=25), " so?")
_LONG: Row = ("word " * 40, Photo((96, 96)), " end")
_TEXT: Row = ("No picture here.",)

_FILES_AT_FAULT: tuple[Fault, ...] = ("missing file", "damaged file", "control token")
_CLIP, _SAME_SIZE = Clip(4, 96, 64, fps=2.0), Noise(96, 128, seed=26)  # 2 x 4 x 6 and 8 x 6 patches
_VIDEO: Row = ("Moves: ", _CLIP, " stays: ", _SAME_SIZE, " so?")


def state_cases() -> list[Case]:
    """Return the cases about state. They belong to phase 4."""
    return [
        Case(
            "requests-alike",
            "other requests that agree with it in shapes, sums, ids, grids or parts of pictures, and some at fault",
            4,
            TINY,
            (_TWO,),
            decode_steps=2,
            before=(
                *map(_request, (_TURNED, _IN_PART, _MIRRORED, _LAST_ROW, _EXCHANGED, _ONE, _LONG, _TEXT)),
                _at_fault("grids exchanged", _TWO),
                _at_fault("patches missing", _IN_PART),
                _at_fault("unknown token", _IN_PART),
                _at_fault("cache too small", _TURNED),
            ),
            between=(_request(_TURNED), _request(_LONG)),
            stages=("model",),
        ),
        Case(
            "requests-files",
            "other requests whose files have the same names, and some at fault",
            4,
            TINY,
            ((*_TWO, _CLIP),),
            before=(
                *map(
                    _request, ((*_TURNED, Clip(6, 96, 64, fps=2.0)), (*_IN_PART, Clip(4, 64, 96, fps=4.0)), _LAST_ROW)
                ),
                *(_at_fault(fault, _IN_PART) for fault in _FILES_AT_FAULT),
            ),
            stages=("processor",),
        ),
        Case(
            "requests-batch",
            "batches with the same rows in another order and with padding on the other side before it and in between",
            4,
            TINY,
            (_LONG, _TWO, _TEXT),
            decode_steps=2,
            before=(
                _request(_TEXT, _LONG, _TWO),
                replace(_request(_LONG, _TWO, _TEXT), padding_side="right"),
                _at_fault("cache too small", _TWO, _TEXT, _LONG),
            ),
            between=(_request(_TWO, _TEXT, _LONG),),
            stages=("model",),
        ),
        Case(
            "requests-video",
            "a video after longer and shorter ones and after a picture of as many patches; prefill in chunks",
            4,
            TINY,
            (_VIDEO,),
            chunk=13,
            decode_steps=2,
            before=(
                _request(("Moves: ", Clip(11, 96, 64, fps=2.0), " stays: ", _SAME_SIZE, " so?")),
                _request(("Moves: ", Clip(4, 64, 96, fps=2.0), " stays: ", Noise(128, 96, seed=27), " so?")),
                _request(("Moves: ", Clip(2, 96, 64, fps=2.0), " so?")),
                _request(("Stays: ", _SAME_SIZE, " so?")),
                _at_fault("cache too small", _VIDEO),
            ),
            between=(_request(("Moves: ", Clip(7, 64, 64, fps=2.0), " so?")),),
            stages=("model",),
        ),
        Case(
            "equal-totals",
            "pictures and frames with equal sums of patches, turned and split differently, in one batch",
            4,
            TINY,
            (
                ("1 ", Noise(96, 64, seed=31), " 2 ", Noise(64, 96, seed=32), " 3 ", Noise(192, 32, seed=33)),
                ("4 ", Clip(5, 64, 96, fps=2.0), " 5 ", Clip(4, 96, 64, fps=2.0), " 6 ", Noise(64, 96, seed=34)),
            ),
            padding_side="right",
            decode_steps=1,
        ),
        _calls("calls-left", "the logits of the model's other calls, padded left", "left"),
        _calls("calls-right", "the logits of the model's other calls, padded right", "right"),
    ]


def _calls(name: str, title: str, side: Padding) -> Case:
    return Case(name, title, 4, TINY, (_LONG, _VIDEO, _TEXT), padding_side=side, decode_steps=3, stages=("calls",))


def _request(*rows: Row) -> Case:
    return Case("other", "", 4, TINY, rows)


def _at_fault(fault: Fault, *rows: Row) -> Case:
    return replace(_request(*rows), fault=fault)
