"""The training loop: batches from a seed, several processes, bfloat16 by autocast."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from transformers import AutoProcessor
from transformers.utils import logging as hf_logging

from reference.training.batches import training_batch
from reference.training.model import fresh_model
from reference.training.recipe import Recipe

# Called with a step and the loss of its batch.
OnStep = Callable[[int, float], None]
# Long enough to import transformers from a slow disk, or for a step on a busy machine. A dead process never answers.
_PATIENCE = timedelta(minutes=3)


def train(folder: Path, recipe: Recipe, on_step: OnStep, *, processes: int = 2) -> Any:
    """Train a new model with the config in ``folder`` for ``recipe.steps`` steps and return it.

    Each process uses one thread and has its own rows, and the gradients are averaged. With matrices this small,
    several threads would mostly wait for each other. Raises RuntimeError if torch has no Muon (before 2.9) or if a
    process dies.
    """
    threads = torch.get_num_threads()
    try:
        if processes == 1:
            return _train(folder, recipe, on_step, _Crew(0, 1))
        with _followers(folder, recipe, processes) as crew:
            return _train(folder, recipe, on_step, crew)
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Crew:
    """One of ``size`` processes that train the same model."""

    rank: int
    size: int

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor with its mean over all processes, in place."""
        if self.size == 1:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(together)
        together /= self.size
        for tensor, mean in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def _train(folder: Path, recipe: Recipe, on_step: OnStep, crew: _Crew) -> Any:
    torch.set_num_threads(1)
    processor, model = AutoProcessor.from_pretrained(folder), fresh_model(folder, seed=recipe.seed)
    # There are many small pictures. A fused kernel for each is slower than plain matrix products.
    model.set_attn_implementation("eager")
    optimizers = make_optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.share) for optimizer in optimizers]
    mixture = recipe.mixture.share(crew.size)
    rng = np.random.default_rng([recipe.seed, crew.rank])
    named = _Named(model)
    pads = torch.tensor([processor.image_token_id, processor.video_token_id])
    for step in range(recipe.steps):
        batch = training_batch(processor, rng, mixture)
        places, said = batch.pop("places"), batch.pop("said")
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**batch)
            seen = named_loss(named.logits()[places], said)
            kept = named_loss(output.logits[torch.isin(batch["input_ids"], pads)][places], said)
        (output.loss + recipe.seen * seen + recipe.kept * kept).backward()
        crew.average([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        on_step(step, output.loss.item())
    named.hook.remove()
    return model


@contextmanager
def _followers(folder: Path, recipe: Recipe, processes: int) -> Iterator[_Crew]:
    """Start the other processes, and end them at the end of the block. This process has rank 0."""
    with tempfile.TemporaryDirectory(prefix="training-") as spool:
        meeting = (Path(spool) / "meeting").as_uri()
        spawn = multiprocessing.get_context("spawn")
        others = [
            spawn.Process(target=_follow, args=(folder, recipe, meeting, rank, processes), daemon=True)
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            _meet(meeting, 0, processes)
            yield _Crew(0, processes)
            for other in others:
                other.join()
        finally:
            for other in others:
                other.terminate()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _meet(meeting: str, rank: int, processes: int) -> None:
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes, timeout=_PATIENCE)


def _follow(folder: Path, recipe: Recipe, meeting: str, rank: int, processes: int) -> None:
    hf_logging.set_verbosity_error()  # rank 0 has shown these messages already
    _meet(meeting, rank, processes)
    _train(folder, recipe, lambda step, loss: None, _Crew(rank, processes))
    distributed.destroy_process_group()


class _Named:
    """Applies the head to the vision tower's tokens, as if they came from the last layer."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._tokens: list[Tensor] = []  # (tokens, hidden), of the pictures, then of the clips
        self.hook = model.model.visual.merger.register_forward_hook(
            lambda module, inputs, output: self._tokens.append(output)
        )

    def logits(self) -> Tensor:
        """Return logits (tokens, V) of the last forward: merged patches of all pictures, then of all clips."""
        tokens = torch.cat(self._tokens)
        self._tokens.clear()
        logits: Tensor = self._model.lm_head(self._model.model.language_model.norm(tokens))
        return logits


def named_loss(logits: Tensor, said: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits (K, V) and the four words (K, 4) that each token should name.

    The target probability of each word is a quarter. On the vision tower's tokens, this loss teaches the tower
    directly to express what it sees in the words of the questions. On the last layer, it keeps these words there, so
    that a question can find them.
    """
    return -logits.float().log_softmax(dim=-1).gather(1, said).mean()


def make_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon (arXiv:2502.16982) for matrices, which needs two thirds of AdamW's steps, and AdamW for the rest.

    The mergers' large matrices use AdamW, because to orthogonalise them takes longer than the rest of a step.
    """
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise RuntimeError(f"torch {torch.__version__} has no Muon; training needs 2.9 or newer")
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        own = parameter.ndim == 2 and "embed" not in name and "merger" not in name
        (matrices if own else rest).append(parameter)
    return [
        muon(matrices, lr=recipe.matrix_rate, momentum=recipe.momentum, weight_decay=0.0, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=recipe.rate, betas=recipe.betas, weight_decay=0.0),
    ]
