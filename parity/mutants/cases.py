"""The cases on which mutants are tried."""

from __future__ import annotations

from collections.abc import Mapping

# Cases that together catch every mutant with as few forwards as possible, as each ``parity mutants`` report shows; and
# one with the trained model, whose activations differ from those of random weights.
_SMALLEST = (
    "batch-3-chunked",
    "long-right",
    "config-traps",
    "other-requests",
    "conv3d-odd",
    "processor",
    "processor-odd",
    "trained-batch",
)
# Cases for the mistakes of a few components. Only those are tried on them, as the cases above show all others.
_GENERATION = ("generate", "generated-text", "generation-config", "sampling")
ONLY: Mapping[str, tuple[str, ...]] = {
    "requests-alike": ("state",),
    "requests-batch": ("state",),
    "requests-files": ("processor-state",),
    "budget-corners": ("settings",),
    "budget-released": ("settings",),
    "budget-released-large": ("settings",),
    "video-corners": ("settings", "prompt"),
    "other-settings": ("settings",),
    "frames-counted": ("settings",),
    "other-shape": ("settings",),
    "formats-further": ("prompt",),
    "given-otherwise": ("prompt",),
    "turns": ("prompt",),
    "texts": ("prompt",),
    "template-variables": ("prompt",),
    "tools": ("prompt",),
    "template-places": ("prompt",),
    "calls-left": ("calls",),
    "calls-right": ("calls",),
    "bad-input": ("refusals",),
    "tied-bad-input": ("lm-head",),
    "generation-settings": _GENERATION,
    "generation-left": _GENERATION,
    "generation-right": _GENERATION,
    "generation-odd": _GENERATION,
}
DEFAULT = (*_SMALLEST, *ONLY)
# All kinds of inputs, for the full kill matrix.
ALL = (
    "text",
    "photo",
    "strip",
    "four-pictures",
    "video",
    "video-before-picture",
    "picture-first",
    "odd-shape",
    "rope-parameters",
    "legacy-layout",
    "shards",
    "chunked",
    "conv3d-odd",
    "tied-text-says-no",
    "untied-text-says-yes",
    "batch-2-left",
    "batch-2-right",
    "batch-3",
    "batch-3-tied",
    "batch-3-chunked",
    "trained-batch",
    "other-requests",
    "long-right",
    "config-traps",
    "odd-batch",
    "processor",
    "processor-odd",
    "generation-trained",
    *ONLY,
)
