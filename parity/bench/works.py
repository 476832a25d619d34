"""What is timed: the vision tower, prefill, decode steps and loading, of the port and of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parity.engines.base import ModelEngine, TensorMap, on_device
from parity.engines.device import CPU
from parity.engines.dtypes import DTYPES
from parity.engines.port import PortEngine
from parity.engines.reference import ReferenceEngine
from port import Qwen3VL, load_model
from reference.model import ReferenceModel

Run = Callable[[], object]
# A model of so many parameters is measured on long prompts and real pictures, others on small ones.
LARGE = 10**8


@dataclass(frozen=True)
class Sizes:
    """The sizes of a session. ``side``: patches on each side of a picture; ``steps``: decode steps of a run."""

    pictures: int
    side: int
    prompt: int
    context: int
    batch: int
    sides: tuple[int, ...]
    prompts: tuple[int, ...]
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    steps: int


SMALL = Sizes(2, 16, 128, 64, 8, (4, 8, 16, 24), (16, 64, 128, 256), (16, 64, 256, 512), (1, 2, 4, 8), 8)
BIG = Sizes(2, 32, 512, 64, 8, (8, 16, 32), (32, 128, 512), (32, 128, 512), (1, 2, 4, 8), 2)


def sizes_for(parameters: int) -> Sizes:
    """The sizes for a model of so many parameters."""
    return BIG if parameters >= LARGE else SMALL


def sizes_of(model: Qwen3VL) -> Sizes:
    """The sizes for a loaded model."""
    return sizes_for(sum(parameter.numel() for parameter in model.parameters()))


@dataclass(frozen=True)
class Work:
    """One thing that both sides do. ``amount`` of ``unit`` (patches, tokens, ...) are done in a run.

    ``port`` and ``reference`` prepare a run, of which each call does the work once more.
    """

    name: str
    title: str
    amount: int
    unit: str
    port: Callable[[], Run]
    reference: Callable[[], Run]


@dataclass(frozen=True)
class Sides:
    """Both engines with what they were loaded from."""

    port: PortEngine
    reference: ReferenceEngine
    folder: Path

    @property
    def model(self) -> Qwen3VL:
        return self.port.model

    @property
    def device(self) -> torch.device:
        return self.model.device


def loaded_sides(folder: Path, dtype: str, kernels: str, device: torch.device = CPU) -> Sides:
    """Load port and reference, the reference with its fastest attention (sdpa)."""
    port = load_model(folder, dtype=DTYPES[dtype], kernels=kernels, device=device)
    reference = ReferenceModel.load(folder, dtype=DTYPES[dtype], attention="sdpa", device=device)
    return Sides(PortEngine(port), ReferenceEngine(reference, "sdpa"), folder)


def vision_work(sides: Sides, *, pictures: int, side: int) -> Work:
    """The vision tower on pictures of ``side`` x ``side`` patches."""
    config = sides.model.config.vision
    width = config.patch_dim
    made = torch.Generator().manual_seed(0)
    pixel_values = torch.rand(pictures * side**2, width, generator=made) * 2 - 1
    grids = torch.tensor([[1, side, side]] * pictures)
    inputs = on_device({"pixel_values": pixel_values, "image_grid_thw": grids}, sides.device)
    amount = pictures * side**2
    pixels = side * config.patch_size
    return Work(
        "vision",
        f"vision tower, {pictures} pictures of {pixels} x {pixels}",
        amount,
        "patches",
        lambda: lambda: sides.port.vision(inputs),
        lambda: lambda: sides.reference.vision(inputs),
    )


def prefill_work(sides: Sides, *, tokens: int) -> Work:
    """A prompt of text, all logits."""
    inputs = text_inputs(sides.model, 1, tokens)
    return Work(
        "prefill",
        f"prefill of {tokens} tokens, all logits",
        tokens,
        "tokens",
        lambda: lambda: sides.port.session(inputs, steps=0).prefill(),
        lambda: lambda: sides.reference.session(inputs, steps=0).prefill(),
    )


def decode_work(sides: Sides, *, batch: int, context: int, steps: int) -> Work:
    """``steps`` decode steps after a prompt of at most ``context`` tokens; prompts of a batch differ in length."""
    inputs = text_inputs(sides.model, batch, context)
    token = torch.full((batch, 1), _first_word(sides.model), device=sides.device)

    def prepared(engine: ModelEngine) -> Run:
        session = engine.session(inputs, steps=steps)
        session.prefill()

        def run() -> None:
            for _ in range(steps):
                session.decode(token)
            session.rewind()

        return run

    rows = "batch 1" if batch == 1 else f"batch {batch}, ragged"
    return Work(
        f"decode-{batch}",
        f"decode of {steps} tokens, {rows}, {context} tokens before",
        batch * steps,
        "tokens",
        lambda: prepared(sides.port),
        lambda: prepared(sides.reference),
    )


def load_work(sides: Sides) -> Work:
    """Loading the checkpoint, and the logits after one token."""
    dtype = sides.model.dtype
    inputs = text_inputs(sides.model, 1, 1)

    def port() -> object:
        return PortEngine(load_model(sides.folder, dtype=dtype, device=sides.device)).session(inputs, steps=0).prefill()

    def reference() -> object:
        model = ReferenceModel.load(sides.folder, dtype=dtype, attention="sdpa", device=sides.device)
        return ReferenceEngine(model, "sdpa").session(inputs, steps=0).prefill()

    return Work("load", "load to first logits", 1, "loads", lambda: port, lambda: reference)


def _first_word(model: Qwen3VL) -> int:
    return min(5, model.config.text.vocab_size - 1)


def text_inputs(model: Qwen3VL, batch: int, tokens: int) -> TensorMap:
    """Prompts of random text. Row i of a batch has i shares of half its tokens less, padded on the left."""
    config = model.config
    special = {config.image_token_id, config.video_token_id}
    words = [word for word in range(min(config.text.vocab_size, 400)) if word not in special]
    made = torch.Generator().manual_seed(batch + tokens)
    ids = torch.tensor(words)[torch.randint(len(words), (batch, tokens), generator=made)]
    mask: Tensor = torch.ones_like(ids)
    for row in range(batch):
        mask[row, : row * tokens // (2 * batch)] = 0
    return on_device({"input_ids": ids, "attention_mask": mask}, model.device)
