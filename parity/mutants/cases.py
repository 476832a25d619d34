"""The cases on which mutants are tried."""

from __future__ import annotations

# Cases that together catch every mutant with as few forwards as possible, as each ``parity mutants`` report shows; and
# one with the trained model, whose activations differ from those of random weights.
DEFAULT = (
    "batch-3-chunked",
    "long-right",
    "config-traps",
    "other-requests",
    "conv3d-odd",
    "processor",
    "processor-odd",
    "trained-batch",
    "generation-settings",
    "generation-left",
    "generation-right",
    "generation-odd",
)
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
    "generation-settings",
    "generation-left",
    "generation-right",
    "generation-odd",
    "generation-trained",
)
