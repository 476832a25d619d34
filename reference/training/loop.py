"""The training loop: batches from a seed in a worker of their own, bfloat16 where it is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from reference.training.batches import training_batch
from reference.training.recipe import Recipe

# step, loss of its batch
OnStep = Callable[[int, float], None]


class _Batches(IterableDataset[dict[str, Tensor]]):
    def __init__(self, processor: Any, recipe: Recipe) -> None:
        self.processor, self.recipe = processor, recipe

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        torch.set_num_threads(1)
        rng = np.random.default_rng(self.recipe.seed)
        for _ in range(self.recipe.steps):
            yield training_batch(self.processor, rng, self.recipe.mixture)


def train(model: Any, processor: Any, recipe: Recipe, on_step: OnStep, *, workers: int = 1) -> None:
    """Train ``model`` in place for ``recipe.steps`` steps. Raises RuntimeError where torch has no Muon (before 2.9)."""
    # Small pictures, many of them: a fused kernel for each is slower than plain products.
    model.set_attn_implementation("eager")
    optimizers = make_optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.share) for optimizer in optimizers]
    loader = DataLoader(
        _Batches(processor, recipe), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
    for step, batch in enumerate(loader):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        on_step(step, loss.item())


def make_optimizers(model: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (arXiv:2502.16982) for matrices, which learns in two thirds of AdamW's steps here; AdamW for the rest.

    The mergers' large matrices stay with AdamW: to orthogonalise them takes longer than the rest of a step.
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
