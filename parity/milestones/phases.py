"""The phases of mistral.rs' integration of Qwen3-VL. A milestone is a phase with the cases that it must pass."""

from __future__ import annotations

PHASES = {
    1: "base model and vision pipeline",
    2: "Conv3dNoBias.weight()",
    3: "tied embeddings from the top-level config",
    4: "any batch size",
}
