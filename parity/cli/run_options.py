"""The options of ``parity run``, and the case that they describe. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from parity.cases.batch import batch_rows
from parity.cases.case import Case, Row, SeededCheckpoint
from parity.cases.media import PictureFile, Source, VideoFile
from parity.cases.registry import chosen_cases
from parity.cases.standard import photo_case, trained_case
from parity.core.errors import ParityError

SEEDED = "seeded"  # the value of MODEL for the tiny seeded checkpoint


@dataclass(frozen=True)
class RunOptions:
    """The options of ``parity run``."""

    model: str | None
    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    prompt: str | None
    batch: int
    dtype: str
    case: str | None
    steps: int | None
    chunk: int | None
    padding_side: Literal["left", "right"]
    out: Path | None
    as_json: bool
    every: bool
    timing: bool
    seed: int
    threads: int | None
    traces: Path | None
    device: str = "cpu"
    cache: Path | None = None

    @property
    def by_default(self) -> bool:
        """Whether the default case is run as it is, so that the registry knows it."""
        own = self.model or self.images or self.videos or self.prompt is not None or self.batch > 1
        return not own and self.steps is None and self.chunk is None and self.padding_side == "left"


def chosen_case(options: RunOptions) -> Case:
    """Return the case that the options describe: a named case, the default, or the user's own input."""
    if options.cache is not None and options.traces is not None:
        raise ParityError(
            "--traces needs all runs of the reference, and --cache leaves some out; leave one of them out"
        )
    if options.cache is not None and options.cache.exists() and not options.cache.is_dir():
        raise ParityError(f"{options.cache} is not a folder; name a folder for the kept yardsticks")
    own = bool(options.images or options.videos) or options.prompt is not None
    if options.case is not None:
        (chosen,) = chosen_cases([options.case])
        if own or options.model or options.batch > 1 or options.seed or options.steps is not None:
            raise ParityError(
                "--case has its own model, seed, prompt, pictures, batch and steps; leave those options or --case out"
            )
        if options.chunk is not None or options.padding_side != "left":
            raise ParityError("--case has its own chunk and padding side; leave those options or --case out")
        return chosen
    if options.seed and options.model != SEEDED:
        raise ParityError(f"--seed is only for the seeded checkpoint; use `parity run {SEEDED} --seed {options.seed}`")
    base = trained_case() if options.model is None else photo_case(SeededCheckpoint("tiny", seed=options.seed))
    rows = base.rows
    if own:
        media: list[Source] = [*map(PictureFile, options.images), *map(VideoFile, options.videos)]
        prompt = "Describe this." if options.prompt is None else options.prompt
        if not media and not prompt:
            raise ParityError("the prompt is empty and there is no picture; give --prompt a text, or leave it out")
        rows = ((*media, prompt) if prompt else tuple(media),)
    return replace(
        base,
        name="run" if own or options.model not in (None, SEEDED) else base.name,
        title=_title(rows[0], options.batch) if own or options.batch > 1 else base.title,
        phase=4 if options.batch > 1 else 1,
        rows=batch_rows(rows[0], options.batch),
        padding_side=options.padding_side,
        decode_steps=base.decode_steps if options.steps is None else options.steps,
        chunk=options.chunk,
    )


def _title(row: Row, batch: int) -> str:
    media = [part.title for part in row if not isinstance(part, str)]
    what = ", ".join(media) if media else "text"
    return what if batch == 1 else f"{what}, batch of {batch}"
