"""Makes seeded checkpoints, and keeps them in the user's cache folder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from parity.cases.case import SeededCheckpoint
from parity.core.errors import ParityError
from parity.runs.rewritten import rewritten, version
from reference.checkpoint import make_checkpoint
from reference.weights import RECIPE


def cache_folder() -> Path:
    """Return the folder of seeded checkpoints: ``QWEN3VL_PARITY_CACHE``, or one in the user's cache folder."""
    given = os.environ.get("QWEN3VL_PARITY_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("qwen3vl-parity", appauthor=False))


def make_seeded(folder: Path, shape: str = "tiny", **options: Any) -> Path:
    """Call ``make_checkpoint``. Raises ParityError if it refuses, or if the folder cannot be written."""
    try:
        return make_checkpoint(folder, shape, **options)
    except ValueError as error:
        raise ParityError(str(error)) from error
    except OSError as error:
        raise ParityError(f"{folder} cannot be made: {error.strerror or error}; name another folder") from error


def seeded_checkpoint(spec: SeededCheckpoint, cache: Path) -> Path:
    """Return the folder of a seeded checkpoint in ``cache``. It is made if it does not exist."""
    base = replace(spec, text_tie_flag=None, edits=(), rewrites=())
    # Another recipe makes other weights, so it gets its own folder; older checkpoints stay.
    shelf = cache / f"checkpoints-{RECIPE}"
    try:
        folder = make_seeded(
            shelf / base.label,
            spec.shape,
            seed=spec.seed,
            tied=spec.tied,
            dtype=spec.dtype,
            max_shard_bytes=spec.max_shard_bytes,
            layout=spec.layout,
            lm_head_entry=spec.lm_head_entry,
            rope_dialect=spec.rope_dialect,
        )
    except ParityError as error:
        raise ParityError(
            f"{error}; seeded checkpoints are kept in {cache}, set QWEN3VL_PARITY_CACHE to keep them in another folder"
        ) from None
    edits = spec.edits
    if spec.text_tie_flag is not None:
        edits = (("config.json", "text_config.tie_word_embeddings", spec.text_tie_flag), *edits)
    if not edits and not spec.rewrites:
        return folder
    return rewritten(folder, shelf / f"{spec.label}-{version()}", edits=edits, rewrites=spec.rewrites)
