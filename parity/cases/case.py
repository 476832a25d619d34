"""Cases: a checkpoint, prompts with pictures and videos, a batch, a mode."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from parity.cases.media import Source
from reference.media import ONE_TURN, Prompting

Padding = Literal["left", "right"]
StageName = Literal["processor", "model", "generation", "weights", "calls", "refusals"]
# What is wrong with a request that must be refused. See ``parity.engines.busy``.
Fault = Literal[
    "patches missing", "grids exchanged", "cache too small", "unknown token", "missing file", "damaged file",
    "control token",
]  # fmt: skip
# A change of a checkpoint's file: its name, a dotted path in its JSON, and the new value; None removes it.
Edit = tuple[str, str, Any]


@dataclass(frozen=True)
class SeededCheckpoint:
    """A seeded checkpoint. See ``reference.checkpoint.make_checkpoint`` for the fields.

    ``text_tie_flag`` is a ``tie_word_embeddings`` in text_config, which may contradict the top level. ``edits`` change
    JSON files afterwards, and ``rewrites`` name ways to store the same checkpoint, see ``parity.runs.rewritten``.
    """

    shape: str = "tiny"
    tied: bool | None = None
    dtype: str = "float32"
    layout: Literal["published", "legacy"] = "published"
    max_shard_bytes: int | None = None
    lm_head_entry: bool | None = None
    rope_dialect: Literal["rope_scaling", "rope_parameters"] = "rope_scaling"
    text_tie_flag: bool | None = None
    seed: int = 0
    edits: tuple[Edit, ...] = ()
    rewrites: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """A folder name that differs if any field differs."""
        parts = [self.shape, f"seed{self.seed}", self.dtype, self.layout, self.rope_dialect]
        for name in ("tied", "lm_head_entry", "text_tie_flag", "max_shard_bytes"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}-{value}".lower().replace("_", "-"))
        parts += self.rewrites
        if self.edits:
            parts.append(f"edits-{hashlib.sha256(repr(self.edits).encode()).hexdigest()[:12]}")
        return "-".join(parts)


@dataclass(frozen=True)
class TrainedCheckpoint:
    """The trained model that ships with the package. See ``reference.trained``."""

    label: ClassVar[str] = "trained"
    dtype: ClassVar[str] = "bfloat16"
    rope_dialect: ClassVar[str] = "rope_scaling"
    text_tie_flag: ClassVar[bool | None] = None


Checkpoint = SeededCheckpoint | TrainedCheckpoint
Row = tuple[Source, ...]


@dataclass(frozen=True)
class Request:
    """One call of ``generate`` on the rows of a case.

    ``config`` are the fields of ``generation_config.json``, as pairs; None: the checkpoint's own file.
    ``max_new_tokens`` is passed to ``generate`` if it is given. ``end_after`` gives a number of tokens for some rows:
    the token that the reference generates there becomes an end token of the request.
    """

    config: tuple[tuple[str, Any], ...] | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    end_after: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Case:
    """One input, and the stages that are judged on it.

    ``stages`` are judged in order: "processor" (from the files to token ids and pixels), "model" (seam by seam),
    "generation" (each of ``requests``, token by token), "calls" (the logits of the model's other calls), "weights"
    (tensor by tensor), "refusals" (bad input is refused). The same processor and model serve the requests ``before``
    first. The model serves those ``between`` in turn with the case: their prefills after its own, and a step of each
    before each of its decode steps. ``fault``: what is wrong with the case as such a request. ``bad_input``: the parts
    of the stage "refusals", such as "config". ``grids_only``: of the processor, only sizes and prompts are judged,
    because the pixels are many. ``since``: the release of transformers from which the reference does the same.
    ``phase`` is the phase of the integration that the case tests.
    """

    name: str
    title: str
    phase: int
    checkpoint: Checkpoint = field(default_factory=SeededCheckpoint)
    rows: tuple[Row, ...] = ()
    padding_side: Padding = "left"
    decode_steps: int = 4
    chunk: int | None = None
    stages: tuple[StageName, ...] = ("processor", "model")
    before: tuple[Case, ...] = ()
    between: tuple[Case, ...] = ()
    requests: tuple[Request, ...] = ()
    fault: Fault | None = None
    bad_input: tuple[str, ...] = ()
    prompting: Prompting = ONE_TURN
    grids_only: bool = False
    since: tuple[int, int] = (4, 57)

    @property
    def mode(self) -> str:
        """The forwards of the case, in words."""
        if "generation" in self.stages:
            return f"{len(self.requests)} requests to generate"
        if "model" not in self.stages:
            return " and ".join(self.stages)
        prefill = "prefill" if self.chunk is None else f"prefill in chunks of {self.chunk}"
        return f"{prefill} + {self.decode_steps} decode steps"


TINY = SeededCheckpoint("tiny")
TIED = SeededCheckpoint("tiny-tied")
ODD = SeededCheckpoint("tiny-odd")
OTHER = SeededCheckpoint("tiny-other")

TRAINED = TrainedCheckpoint()
