"""Generation by an engine: the interface, and the port.

Shape legend
    B, S, V   batch, prompt tokens, vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from parity.engines.base import Engine, Sink, TensorMap
from parity.engines.busy import OtherRequests
from parity.engines.dtypes import running_dtype
from parity.engines.port import VERSION
from parity.seams.generation import KEPT, SETTINGS
from port import GenerationConfig, Inputs, Processor, Qwen3VL, Step, generate, listening

_OTHER_TOKENS = 3  # new tokens of the other requests before this one


@dataclass(frozen=True)
class GenerationRequest:
    """One call of ``generate``: the folder of ``generation_config.json``, and what is passed besides it."""

    folder: Path
    max_new_tokens: int | None = None
    seed: int = 0


class GenerationSubject(Engine, Protocol):
    """A subject that generates."""

    def generate(self, inputs: TensorMap, request: GenerationRequest, sink: Sink) -> None:
        """Generate, and send every value with its seam's name to ``sink``. See ``parity.seams.generation``.

        The engine goes on with a tensor that ``sink`` returns.
        """
        ...


class PortGeneration:
    """The port's generation: its model, its reading of ``generation_config.json``, its tokenizer.

    It serves ``others.before`` first; ``others.between`` are generated in turn with the request, a token of each at a
    time.
    """

    name, detail = "port", VERSION

    def __init__(
        self, model: Qwen3VL, processor: Processor, others: OtherRequests, *, chunk: int | None = None
    ) -> None:
        self.model, self.processor, self.others, self.chunk = model, processor, others, chunk

    @property
    def dtype(self) -> str:
        return running_dtype(self.model)

    def generate(self, inputs: TensorMap, request: GenerationRequest, sink: Sink) -> None:
        """Send every value of a request to ``sink``. Raises the port's errors."""
        config = GenerationConfig.from_folder(request.folder)
        most = request.max_new_tokens
        sink("generation.settings", _settings(config, most))
        sink("generation.eos_token_ids", torch.tensor(sorted(set(config.eos_token_ids))))
        for earlier in self.others.before:
            _advance(self._steps(earlier.inputs, config, _OTHER_TOKENS, seed=request.seed + 1), _OTHER_TOKENS)
        waiting = [self._steps(other.inputs, config, 2**10, seed=request.seed + 1) for other in self.others.between]
        steps = self._steps(inputs, config, most, seed=request.seed)
        streams = [self.processor.stream() for _ in inputs["input_ids"]]
        rows: list[list[int]] = [[] for _ in streams]
        pieces: list[list[str]] = [[] for _ in streams]
        listener = _Kept(sink)
        while True:
            with listening(listener):
                step = next(steps, None)
            if step is None:
                break
            for other in waiting:
                _advance(other, 1)
            for row, token in enumerate(step.tokens):
                if token is not None:
                    rows[row].append(token)
                    pieces[row].append(streams[row].push(token))
        for row, stream in enumerate(streams):
            sink(f"generation.text.{row}", code_points(self.processor.decode(rows[row])))
            sink(f"generation.stream.{row}", code_points("".join(pieces[row]) + stream.end()))

    def _steps(self, inputs: TensorMap, config: GenerationConfig, most: int | None, *, seed: int) -> Iterator[Step]:
        return generate(self.model, Inputs(**inputs), config, max_new_tokens=most, chunk=self.chunk, seed=seed)


class _Kept:
    """A listener for the port's taps. After a step that removes tokens, the sink gets which are left."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if not name.startswith("generation."):
            return tensor
        if name.removeprefix("generation.") in KEPT:
            self._sink(name, tensor > -torch.inf)
            return tensor
        given = self._sink(name, tensor)
        return tensor if given is None else given


def _advance(steps: Iterator[Step], count: int) -> None:
    """Take some steps of another request. Its errors are not judged here: the same ones in a judged request are."""
    with ExitStack() as stack:
        stack.enter_context(listening(_ignore))
        stack.enter_context(suppress(Exception))
        for _ in range(count):
            next(steps, None)


def _ignore(_name: str, tensor: Tensor) -> Tensor:
    return tensor


def _settings(config: GenerationConfig, most: int | None) -> Tensor:
    """(7,) float64: the settings as they are used. Those of drawing do nothing in a greedy request."""
    used = {name: float(getattr(config, name) or 0) for name in SETTINGS}
    if not config.do_sample:
        used |= {"temperature": 1.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0}
    if most is not None:
        used["max_new_tokens"] = float(most)
    return settings_tensor(used)


def settings_tensor(settings: dict[str, float]) -> Tensor:
    """(7,) float64: the settings in the order of ``SETTINGS``."""
    return torch.tensor([float(settings[name]) for name in SETTINGS], dtype=torch.float64)


def code_points(text: str) -> Tensor:
    """(1 + characters,) int64: the number of characters, then their code points."""
    return torch.tensor([len(text), *map(ord, text)])
