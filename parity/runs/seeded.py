"""Seeded checkpoints, made once and kept in the user's cache folder."""

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
    """Where seeded checkpoints are kept between runs: ``QWEN3VL_PARITY_CACHE``, or the user's cache folder."""
    given = os.environ.get("QWEN3VL_PARITY_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("qwen3vl-parity", appauthor=False))


def make_seeded(folder: Path, shape: str = "tiny", **options: Any) -> Path:
    """``reference.checkpoint.make_checkpoint``. Raises ParityError where it refuses or the folder cannot be written."""
    try:
        return make_checkpoint(folder, shape, **options)
    except ValueError as error:
        raise ParityError(str(error)) from error
    except OSError as error:
        raise ParityError(f"{folder} cannot be made: {error.strerror or error}; name another folder") from error


def seeded_checkpoint(spec: SeededCheckpoint, cache: Path) -> Path:
    """The folder of a seeded checkpoint below ``cache``, made if it is not there yet."""
    base = replace(spec, text_tie_flag=None)
    # Another recipe makes other weights: an older version's checkpoints stay beside the new ones.
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
    """A copy of a checkpoint whose text_config has a ``tie_word_embeddings`` of its own."""
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
