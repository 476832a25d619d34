"""The settings with which the small model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from reference.training.batches import Mixture


@dataclass(frozen=True)
class Recipe:
    """The settings. Muon trains the matrices of blocks and layers, AdamW the rest.

    The learning rates warm up, stay level, and then fall linearly; ``level`` is the share of the steps after which
    they fall. ``seen`` and ``kept`` are the weights of ``named_loss`` on the vision tower and on the last layer.
    """

    seed: int = 0
    steps: int = 1150
    matrix_rate: float = 0.02
    rate: float = 1e-3
    warmup: int = 50
    level: float = 0.4
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    seen: float = 1.0
    kept: float = 0.3
    mixture: Mixture = field(default_factory=lambda: Mixture(36, 12, picture_questions=3, clip_questions=2))

    def share(self, step: int) -> float:
        """Return the factor of the learning rates at a step."""
        return min(1.0, (step + 1) / self.warmup, (1 - step / self.steps) / (1 - self.level))
