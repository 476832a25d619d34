"""The port while it serves other requests: its processor and its model keep nothing from one for another.

Other requests go before the judged one, and between its steps. Some of them are at fault and must be refused; whether
they are is judged by the stage ``refusals``. Here they must leave nothing behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.cases.case import Fault
from parity.cases.media_batch import MediaBatch
from parity.engines.base import Session, Sink, TensorMap, last_logits, run_steps
from parity.engines.port import PortEngine, PortProcessor, prompting_arguments
from port import Processor, Qwen3VL, listening
from reference.media import PicturePath, VideoPath

_STEPS = 2  # decode steps of a request before the judged one


@dataclass(frozen=True)
class OtherRequest:
    """A request: its files for the processor, its tensors for the model, and what is wrong with it, if anything."""

    batch: MediaBatch
    inputs: TensorMap
    fault: Fault | None = None


@dataclass(frozen=True)
class OtherRequests:
    """Requests that are served before the judged one, and between its steps."""

    before: Sequence[OtherRequest] = ()
    between: Sequence[OtherRequest] = ()


class BusyPortEngine(PortEngine):
    """The port's model, serving other requests before the judged one and between its steps.

    A request before it whose tensors have the same shapes is served from the same memory: a port may not know a tensor
    by its address.
    """

    def __init__(self, model: Qwen3VL, others: OtherRequests, *, chunk: int | None = None) -> None:
        super().__init__(model, chunk=chunk)
        self._others = others

    def session(self, inputs: TensorMap, *, steps: int) -> Session:
        if not self._others.before and not self._others.between:
            return super().session(inputs, steps=steps)
        own = {name: tensor.to(self.model.device, copy=True) for name, tensor in inputs.items()}
        with _unheard():
            for request in self._others.before:
                with suppress(Exception):  # the same error in the judged request is judged there
                    self._serve(request, own)
        _write(inputs, own)
        return _Interleaved(super().session(own, steps=steps), lambda: self._opened(steps))

    def _serve(self, request: OtherRequest, memory: Mapping[str, Tensor]) -> None:
        inputs = request.inputs
        if {name: x.shape for name, x in inputs.items()} == {name: x.shape for name, x in memory.items()}:
            _write(inputs, memory)
            inputs = memory
        inputs, steps = _at_fault(inputs, request.fault), _STEPS
        session = super().session(inputs, steps=-1 if request.fault == "cache too small" else steps)
        if request.fault == "unknown token":
            session.prefill()
            session.decode(torch.full((len(inputs["input_ids"]), 1), self.model.config.text.vocab_size))
        run_steps(session, inputs, None, steps=steps)

    def _opened(self, steps: int) -> Iterator[Callable[[], object]]:
        """Prefill the requests between the steps. Yields a function for each that does its next decode step."""
        for request in self._others.between:
            # Room for as many tokens: a port may not know a cache by its shape.
            session = super().session(request.inputs, steps=steps)
            with suppress(Exception):
                logits = last_logits(session.prefill(), request.inputs["attention_mask"])  # (B, V)
                yield _Steps(session, logits.argmax(dim=-1, keepdim=True))


class _Steps:
    """Greedy decode steps of a session, one for each call."""

    def __init__(self, session: Session, token: Tensor) -> None:
        self._session, self._token = session, token  # (B, 1)

    def __call__(self) -> None:
        self._token = self._session.decode(self._token)[:, -1].argmax(dim=-1, keepdim=True)


class _Interleaved:
    """A session with steps of other requests before each of its decode steps."""

    def __init__(self, session: Session, opened: Callable[[], Iterator[Callable[[], object]]]) -> None:
        self._session, self._open = session, opened
        self._others: list[Callable[[], object]] | None = None

    def prefill(self) -> Tensor:
        return self._session.prefill()

    def decode(self, token_ids: Tensor) -> Tensor:
        with _unheard():
            if self._others is None:
                self._others = list(self._open())
            for step in self._others:
                with suppress(Exception):
                    step()
        return self._session.decode(token_ids)

    def rewind(self) -> None:
        self._session.rewind()


class BusyPortProcessor(PortProcessor):
    """The port's processor, serving other requests before the judged one.

    Files of other requests get the names of the judged request's files while they are served.
    """

    def __init__(self, processor: Processor, before: Sequence[OtherRequest]) -> None:
        super().__init__(processor)
        self._before = before

    def process(self, batch: MediaBatch, sink: Sink) -> None:
        for request in self._before:
            with _unheard(), suppress(Exception), _under_names_of(batch, request.batch) as served:
                self.processor(
                    [_turns_at_fault(turns, request.fault) for turns in served.conversations],
                    padding_side=served.padding_side,
                    **prompting_arguments(served.prompting),
                )
        super().process(batch, sink)


@contextmanager
def _unheard() -> Iterator[None]:
    """The listener of the judged request does not get the values of others."""
    with listening(lambda _name, tensor: tensor):
        yield


def _write(values: TensorMap, memory: Mapping[str, Tensor]) -> None:
    for name, tensor in memory.items():
        tensor.copy_(values[name])


def _at_fault(inputs: TensorMap, fault: Fault | None) -> TensorMap:
    """Return the tensors of a request with its fault."""
    if fault == "patches missing":
        return {**inputs, "pixel_values": inputs["pixel_values"][:-1]}
    if fault == "grids exchanged":  # the sum fits, the order does not
        return {**inputs, "image_grid_thw": inputs["image_grid_thw"].flip(0)}
    return inputs


def _turns_at_fault(turns: list[dict[str, Any]], fault: Fault | None) -> list[dict[str, Any]]:
    """Return a conversation with its fault at the end, after media that are sound."""
    last: dict[Fault, dict[str, Any]] = {
        "missing file": {"type": "image", "image": Path("no-such-picture.png")},
        "damaged file": {"type": "image", "image": b"not a picture"},
        "control token": {"type": "text", "text": "<|image_pad|>"},
    }
    if fault not in last:
        return turns
    return [*turns, {"role": "user", "content": [last[fault]]}]


@contextmanager
def _under_names_of(own: MediaBatch, other: MediaBatch) -> Iterator[MediaBatch]:
    """Give the files of ``other`` the names of those of ``own`` in the same places, and take them away again.

    Only files that the harness wrote are moved.
    """
    rows: list[list[str | PicturePath | VideoPath]] = [list(row) for row in other.rows]
    moved: list[Path] = []
    try:
        for at, row in enumerate(rows[: len(own.rows)]):
            for place, (part, mine) in enumerate(zip(row, own.rows[at], strict=False)):
                if isinstance(part, str) or isinstance(mine, str) or type(part) is not type(mine):
                    continue
                if mine.path.parent != Path(own.spool.name) or part.path.suffix != mine.path.suffix:
                    continue
                mine.path.rename(_kept(mine.path))
                moved.append(mine.path)
                _copy(part.path, mine.path)
                row[place] = mine
        yield replace(other, rows=rows)
    finally:
        for path in moved:
            _remove(path)
            _kept(path).rename(path)


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.kept")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
