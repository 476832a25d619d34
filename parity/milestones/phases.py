"""The phases of mistral.rs' integration of Qwen3-VL. A milestone is a phase with what it must pass."""

from __future__ import annotations

from parity.milestones.plan import standard

PHASES = {phase.number: phase.title for phase in standard().phases}
