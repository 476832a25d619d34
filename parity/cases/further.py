"""Cases that are not in the standard suite. Some mistakes only show on these inputs; the kill matrix uses them."""

from __future__ import annotations

from parity.cases.case import ODD, TINY, TRAINED, Case, Row, SeededCheckpoint
from parity.cases.media import FORMATS, Clip, Encoded, Noise, Photo
from parity.cases.standard import LANDSCAPE, PORTRAIT, SMALL

# More tokens than 256, up to which bfloat16 holds whole numbers exactly.
LONG_TEXT = "word " * 150
_TWICE: Row = ("Twice: ", LANDSCAPE, " and what?")
_SAME: Row = ("Twice: ", Noise(320, 128, seed=5), " and what?")
_OTHER: Row = ("Something else: ", PORTRAIT, Noise(160, 64, seed=8), " Is it longer than the first?")


def further_cases() -> list[Case]:
    """Return every case that is not in the standard suite."""
    # ``other``: other tokens, but segments of the same size. ``same``: the same tokens and grid, but other pixels.
    other, same = _request("other", "", _OTHER), _request("same", "", _SAME)
    return [
        _request(
            "other-requests",
            "other requests before it, and before its first decode step",
            _TWICE,
            before=(other, same, other),
            between=(other,),
        ),
        Case(
            "long-right",
            "a picture after more than 256 positions, padded right",
            4,
            TINY,
            ((LONG_TEXT, LANDSCAPE, " end"), ("Short: ", PORTRAIT, " row")),
            padding_side="right",
        ),
        Case(
            "config-traps",
            "the dialect of transformers 5, tied at the top level, untied in text_config; a short prompt",
            3,
            SeededCheckpoint("tiny-tied", tied=True, text_tie_flag=False, rope_dialect="rope_parameters"),
            (("Tied? ", SMALL, " Or not?"),),
        ),
        Case(
            "odd-batch",
            "merge 3, temporal patch 4, right padding, chunks",
            4,
            ODD,
            ((Clip(9, 126, 168), " so ", Noise(210, 126, seed=4)), ("Short.", Noise(126, 168, seed=6))),
            padding_side="right",
            chunk=17,
        ),
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
            stages=("processor",),
        ),
        Case(
            "processor-odd",
            "merge 3, temporal patch 4, patch 14: a very narrow picture and clips that fill no patch",
            1,
            ODD,
            (
                ("Thin ", Noise(9000, 50, seed=10), Clip(10, 126, 168), " so ", Clip(9, 64, 96, fps=3.0)),
                ("Short.",),
            ),
            stages=("processor",),
        ),
        Case(
            "trained-resized",
            "the trained model, asked about a picture that is resized; for engines that run here",
            1,
            TRAINED,
            ((Photo((150, 110)), "What shape is the blue object?"),),
        ),
    ]


def _request(name: str, title: str, row: Row, *, before: tuple[Case, ...] = (), between: tuple[Case, ...] = ()) -> Case:
    return Case(name, title, 4, TINY, (row,), before=before, between=between)
