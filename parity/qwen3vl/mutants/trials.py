"""The inputs on which mutants are tried: cases of the standard suite, and requests that disturb each other."""

from __future__ import annotations

from dataclasses import dataclass

from parity.qwen3vl.cases import LANDSCAPE, ODD, PORTRAIT, SMALL, TINY, Case, Row, standard_suite
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

    @property
    def traits(self) -> frozenset[str]:
        """What there is in it that a mistake may need to show."""
        case, checkpoint = self.case, self.case.checkpoint
        if case.check == "weights":
            return frozenset({"weights"} | ({"odd"} if checkpoint.shape == "tiny-odd" else set()))
        rows = case.rows
        pictures = [sum(is_picture(part) for part in row) for row in rows]
        clips = [sum(isinstance(part, Clip) for part in row) for row in rows]
        found = {
            "forward": True,
            "picture": any(pictures),
            "pictures": max(pictures) > 1,
            "segments": sum(pictures) > 1 or any(clips),
            "video": any(clips),
            "video first": any(map(_video_first, rows)),
            "batch": len(rows) > 1,
            "picture in a later row": any(pictures[1:]),
            "left": len(rows) > 1 and case.padding_side == "left",
            "right": len(rows) > 1 and case.padding_side == "right",
            "chunked": case.chunk is not None,
            "requests": bool(self.before or self.between),
            "long": any(LONG_TEXT in row for row in rows),
            "short": rows in SHORT,
            "untied": checkpoint.tied is False or (checkpoint.tied is None and checkpoint.shape != "tiny-tied"),
            "text flag": checkpoint.text_tie_flag is not None,
            "odd": checkpoint.shape == "tiny-odd",
            "rope parameters": checkpoint.rope_dialect == "rope_parameters",
            "legacy": checkpoint.layout == "legacy",
        }
        return frozenset(name for name, there in found.items() if there)


# Fewer tokens than the text model is wide, with a picture among them.
SHORT: tuple[tuple[Row, ...], ...] = ((("Same ", SMALL, " picture"),), (("Tied? ", SMALL, " Or not?"),))

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


def _video_first(row: Row) -> bool:
    kinds = ["video" if isinstance(part, Clip) else "picture" for part in row if not isinstance(part, str)]
    return "video" in kinds and "picture" in kinds[kinds.index("video") :]
