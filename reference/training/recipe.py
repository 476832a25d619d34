"""How the small model is trained: every number of it, none read from a clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from reference.training.batches import Mixture


@dataclass(frozen=True)
class Recipe:
    """Muon for the matrices of blocks and layers, AdamW for the rest; a warm-up, then level, then down in a line.

    ``level``: share of the steps after which the rates fall. ``seen`` and ``kept``: weights of what picture tokens
    should say, as they leave the vision tower and the last layer.
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
        """What share of its rate an optimiser has at a step."""
        return min(1.0, (step + 1) / self.warmup, (1 - step / self.steps) / (1 - self.level))
