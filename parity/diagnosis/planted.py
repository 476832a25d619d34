"""The port with mistakes planted, run on the inputs of a bundle's case. Needs torch, but neither transformers nor the
reference's model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.bundles.bundle import BundleCase
from parity.bundles.generation import plans_of
from parity.bundles.tokens.asking import part_of
from parity.cases.media_batch import MediaBatch
from parity.core.errors import ParityError
from parity.core.metrics import as_rows, row_errors
from parity.core.part import PartOfTrace
from parity.core.trace import SeamKey
from parity.diagnosis.replay import KeptMedia, keeps_files, replayed
from parity.engines.base import Sink, TensorMap
from parity.engines.busy import BusyPortEngine, BusyPortProcessor, OtherRequest, OtherRequests
from parity.engines.dtypes import DTYPES
from parity.engines.generation import GenerationRequest, PortGeneration
from parity.engines.port import port_processor
from parity.kernels.base import Kernels, computing_with
from parity.kernels.plain import PlainKernels
from parity.mutants.base import Mutant, seam_pattern
from parity.runs.fed import fed
from parity.runs.recorder import Recorder
from parity.seams.generation import LOGITS, expected_generation_seams
from parity.seams.model import expected_model_seams
from parity.seams.processor import expected_processor_seams
from parity.seams.spec import Expected
from port import Inputs, Processor, Qwen3VL, listening, load_model
from reference.nudge import moved

OnValue = Callable[[SeamKey, np.ndarray], object]
PROCESSOR, MODEL, GENERATION = "processor", "model", "generation"


class Enough(Exception):
    """Raised by a listener that needs no further value."""


@dataclass
class Cost:
    """What runs cost. ``runs`` counts parts of whole runs: one that is stopped halfway is half a run.

    ``passes`` counts forward passes of the model that were begun.
    """

    started: int = 0
    passes: int = 0
    runs: float = 0.0

    def add(self, other: Cost) -> None:
        """Add the cost of other runs to this one."""
        self.started += other.started
        self.passes += other.passes
        self.runs += other.runs


class PlantedRuns:
    """Runs the port on one case of a bundle, with any mistakes planted.

    ``checkpoint`` is the folder of the case's checkpoint. A mistake in the processor that changes no input of the model
    explains nothing there, so its run is an error; with ``may_change_nothing`` it is a run like any other.
    """

    def __init__(self, case: BundleCase, checkpoint: Path, *, dtype: str, may_change_nothing: bool = False) -> None:
        self.case, self.checkpoint, self.dtype = case, checkpoint, dtype
        self._may_change_nothing = may_change_nothing
        self.cost = Cost()
        self._spool = tempfile.TemporaryDirectory(prefix="parity-media-")

    def expected(self, stage: str) -> list[Expected]:
        """Return every value that a run of a stage gives."""
        images, videos = self.case.count("image"), self.case.count("video")
        if stage == PROCESSOR:
            return expected_processor_seams(images, videos, image_step=1.0, video_step=1.0)
        if stage == GENERATION:
            return expected_generation_seams(plans_of(self._requests, len(self.case.record["rows"])))
        steps = self.case.record["decode_steps"]
        return expected_model_seams(self.case.dimensions, decode_steps=steps, images=images > 0, videos=videos > 0)

    def shows(self, mutant: Mutant) -> bool:
        """Whether the case contains all that a mistake needs to show."""
        there = self.case.traits(mutant.stage)
        return all(any(fnmatchcase(need, trait) for trait in there) for need in mutant.needs)

    def run(
        self,
        mutants: Sequence[Mutant],
        stage: str,
        on_value: OnValue,
        *,
        kernels: Kernels | None = None,
        nudge: int | None = None,
    ) -> str | None:
        """Run a stage with the mistakes planted, and send every value to ``on_value``.

        With ``nudge`` (a seed), embeddings are moved by one ulp of float32; while generating, the logits.

        A mistake of the processor on the model stage changes the inputs of the model. Returns the error of the run as
        text, if a mistake made it fail. ``on_value`` may raise ``Enough`` to stop.
        """
        expected = self.expected(stage)
        kept = replayed(mutants)
        guard = _Guard(on_value, kept if stage == PROCESSOR else frozenset())
        self._make_shared(mutants, stage, media=bool(kept))
        self.cost.started += 1
        try:
            with ExitStack() as stack:
                if kept:
                    stack.enter_context(self._media.replaying(mutants))
                for mutant in mutants:
                    stack.enter_context(mutant.plant())
                self._run(mutants, stage, self._sink(expected, guard, mutants, stage, nudge), kernels)
        except Enough:
            pass
        except Exception as error:  # a mistake may fail in any way
            if guard.failed is not None:
                raise guard.failed from None
            return f"{type(error).__name__}: {error}"
        finally:
            self.cost.runs += guard.seen / len(expected)
            self.cost.passes += guard.passes(stage)
        return None

    def values(
        self, mutants: Sequence[Mutant], stage: str, *, kernels: Kernels | None = None, nudge: int | None = None
    ) -> dict[SeamKey, np.ndarray]:
        """Return the values of a whole run; those before the error, if the mistakes make it fail."""
        found: dict[SeamKey, np.ndarray] = {}
        self.run(mutants, stage, found.__setitem__, kernels=kernels, nudge=nudge)
        return found

    def spread(self, mutants: Sequence[Mutant], stage: str) -> dict[SeamKey, float]:
        """Return how far runs with the same mistakes are from each other by rounding: the largest relative distance.

        A mistake may magnify rounding, or make coarse steps of its own. Two further runs show it: with embeddings that
        are moved by one ulp, and with sums in plain order as well.
        """
        own = self.values(mutants, stage)
        found: dict[SeamKey, float] = {}
        for seed in (1, 2):
            other = self.values(mutants, stage, kernels=PlainKernels() if seed == 1 else None, nudge=seed)
            for key, array in other.items():
                if key in own and own[key].shape == array.shape and array.dtype.kind not in "biu":
                    found[key] = max(found.get(key, 0.0), _distance(array, own[key], self._axes[key]))
        return found

    def _sink(
        self, expected: Sequence[Expected], on_value: OnValue, mutants: Sequence[Mutant], stage: str, nudge: int | None
    ) -> Sink:
        if stage == GENERATION:
            return Recorder(expected, on_value, instead=self._fed, nudge=nudge)
        recorder = Recorder(expected, on_value, chunks=self._chunks(mutants, stage))
        return recorder if nudge is None else _Nudged(recorder, nudge)

    def _run(self, mutants: Sequence[Mutant], stage: str, sink: Sink, kernels: Kernels | None) -> None:
        if stage == PROCESSOR:
            before = self._others.before if keeps_files(mutants) else ()
            BusyPortProcessor(port_processor(self.checkpoint), before).process(self._batch(self.case.record), sink)
            return
        if stage == GENERATION:
            self._generate(any(mutant.loads for mutant in mutants), sink, kernels)
            return
        inputs: TensorMap = self._inputs
        if any(mutant.stage == PROCESSOR for mutant in mutants):
            inputs = self._processed(self.case.record)
            unchanged = all(_same(inputs.get(name), tensor) for name, tensor in self._inputs.items())
            if unchanged and not self._may_change_nothing:
                raise ParityError("it changes no input of the model")
        anew = any(mutant.loads for mutant in mutants)
        model = load_model(self.checkpoint, dtype=DTYPES[self.dtype]) if anew else self._model
        engine = BusyPortEngine(model, self._others, chunk=self.case.record["chunk"])
        tokens = self._tokens
        with nullcontext() if kernels is None else computing_with(kernels):
            engine.trace(inputs, tokens, steps=tokens.shape[1], sink=sink)

    def _generate(self, anew: bool, sink: Sink, kernels: Kernels | None) -> None:
        model = load_model(self.checkpoint, dtype=DTYPES[self.dtype]) if anew else self._model
        processor = port_processor(self.checkpoint) if anew else self._processor
        engine = PortGeneration(model, processor, self._others, chunk=self.case.record["chunk"])
        with nullcontext() if kernels is None else computing_with(kernels):
            for number, asked in enumerate(self._requests):
                folder = Path(self._spool.name) / f"request-{number}"
                folder.mkdir(exist_ok=True)
                (folder / "generation_config.json").write_text(json.dumps(asked["config"]), encoding="utf-8")
                engine.generate(self._inputs, GenerationRequest(folder, asked["max_new_tokens"], asked["seed"]), sink)

    def _chunks(self, mutants: Sequence[Mutant], stage: str) -> int:
        chunk = self.case.record["chunk"]
        if stage == PROCESSOR or chunk is None:
            return 1
        tokens = int(self._inputs["input_ids"].shape[1])
        if any(mutant.stage == PROCESSOR for mutant in mutants):
            raise ParityError(f"{self.case.name} is prefilled in chunks; its processor is judged by its own trace")
        return -(-tokens // int(chunk))

    def forget_media(self) -> None:
        """Process the case's media anew for the next mistake, and count what it costs."""
        vars(self).pop("_media", None)

    def _make_shared(self, mutants: Sequence[Mutant], stage: str, *, media: bool) -> None:
        """Make what other runs use too, before a mistake is planted."""
        if stage != PROCESSOR or keeps_files(mutants):
            self._others  # noqa: B018
        if media and "_media" not in vars(self):
            self._media  # noqa: B018
            self.cost.started += 1
            self.cost.runs += stage == PROCESSOR

    @cached_property
    def _media(self) -> KeptMedia:
        media = KeptMedia()
        with media.recording():
            self._processed(self.case.record)
        return media

    @cached_property
    def _axes(self) -> dict[SeamKey, tuple[int, ...]]:
        return {item.key: item.spec.token_axes for stage in self.case.stages for item in self.expected(stage)}

    @property
    def _requests(self) -> Sequence[Mapping[str, Any]]:
        requests: Sequence[Mapping[str, Any]] = self.case.record["generation"]["requests"]
        return requests

    @cached_property
    def _fed(self) -> PartOfTrace:
        return fed(self.case.reference(GENERATION, self.dtype))

    @cached_property
    def _processor(self) -> Processor:
        return port_processor(self.checkpoint)

    @cached_property
    def _model(self) -> Qwen3VL:
        return load_model(self.checkpoint, dtype=DTYPES[self.dtype])

    @cached_property
    def _inputs(self) -> dict[str, Tensor]:
        found = self.case.inputs
        assert found is not None
        return {name: torch.from_numpy(found.read(name)) for name in found.names if name != "position_ids"}

    @cached_property
    def _tokens(self) -> Tensor:
        """The tokens (B, steps) of the decode steps."""
        listed = self.case.part(self.dtype)["decode_tokens"]
        return torch.tensor(listed, dtype=torch.long).reshape(len(listed), -1)

    @cached_property
    def _others(self) -> OtherRequests:
        before, between = (
            [OtherRequest(self._batch(request), self._processed(request)) for request in self.case.record[when]]
            for when in ("before", "between")
        )
        return OtherRequests(before, between)

    def _processed(self, record: Any) -> TensorMap:
        batch = self._batch(record)
        with listening(lambda _name, tensor: tensor):
            made = port_processor(self.checkpoint)(batch.conversations, padding_side=batch.padding_side)
        given = {field.name: getattr(made, field.name) for field in fields(Inputs)}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def _batch(self, record: Any) -> MediaBatch:
        rows = [[part_of(self.case, part) for part in row] for row in record["rows"]]
        return MediaBatch(rows, record["padding_side"], self._spool)


def _same(left: Tensor | None, right: Tensor) -> bool:
    return left is not None and left.shape == right.shape and bool(torch.allclose(left.double(), right.double()))


class _Nudged:
    """A sink that moves embeddings by one ulp."""

    def __init__(self, sink: Sink, seed: int) -> None:
        self._sink, self._generator = sink, torch.Generator().manual_seed(seed)

    def __call__(self, name: str, tensor: Tensor) -> Tensor | None:
        if name in _NUDGED and tensor.dtype == torch.float32:
            tensor = moved(tensor, self._generator)
            self._sink(name, tensor)
            return tensor
        return self._sink(name, tensor)


_NUDGED = ("vision.patch_embed", "text.embed_tokens")


def _distance(left: np.ndarray, right: np.ndarray, axes: Sequence[int]) -> float:
    """The largest relative distance of two rows; rows with NaN or Inf are left out."""
    errors = row_errors(as_rows(left, axes), as_rows(right, axes))
    return float(errors[np.isfinite(errors)].max(initial=0.0))


class _Guard:
    """Passes values on, counts those that were computed anew, and remembers what the listener raised.

    ``kept`` are the seams whose values come from another run.
    """

    def __init__(self, on_value: OnValue, kept: Collection[str]) -> None:
        self._on_value = on_value
        self._kept = [seam_pattern(name) for name in kept]
        self.seen = 0
        self._calls: set[int] = set()
        self.failed: Exception | None = None

    def __call__(self, key: SeamKey, array: np.ndarray) -> None:
        self.seen += not any(pattern.fullmatch(key.name) for pattern in self._kept)
        if key.name == LOGITS.name or not key.name.startswith(("vision.", "generation.")):
            self._calls.add(key.call)
        try:
            self._on_value(key, array)
        except Enough:
            raise
        except Exception as error:
            self.failed = error
            raise

    def passes(self, stage: str) -> int:
        return 0 if stage == PROCESSOR else len(self._calls)
