"""Makes seeded checkpoints, and keeps them in the user's cache folder."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from parity.cases.case import SeededCheckpoint
from parity.core.errors import ParityError
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
    base = replace(spec, text_tie_flag=None)
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
    if spec.text_tie_flag is None:
        return folder
    return _with_text_flag(folder, shelf / spec.label, flag=spec.text_tie_flag)


def _with_text_flag(source: Path, target: Path, *, flag: bool) -> Path:
    """Copy a checkpoint, and set ``tie_word_embeddings`` in its text_config."""
    if target.is_dir():
        return target
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        config = json.loads((work / "config.json").read_text(encoding="utf-8"))
        config["text_config"]["tie_word_embeddings"] = flag
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target
