"""Checkpoints made once, models and processors loaded once: what several cases share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import torch

import port
from parity.core.errors import ParityError
from parity.qwen3vl.cases import SeededCheckpoint
from reference.checkpoint import make_checkpoint
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.weights import RECIPE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def cache_folder() -> Path:
    """Where seeded checkpoints are kept between runs: ``QWEN3VL_PARITY_CACHE``, or the user's cache folder."""
    given = os.environ.get("QWEN3VL_PARITY_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("qwen3vl-parity", appauthor=False))


class Workbench:
    """One checkpoint's models at a time: asking for another folder or dtype lets go of the last."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        self._key: tuple[str, str] | None = None
        self._reference: ReferenceModel | None = None
        self._port: port.Qwen3VL | None = None
        self._processor: ReferenceProcessor | None = None

    def checkpoint(self, spec: SeededCheckpoint) -> Path:
        """The folder of a seeded checkpoint, made if it is not there yet."""
        base = replace(spec, text_tie_flag=None)
        # Another recipe makes other weights: an older version's checkpoints stay beside the new ones.
        shelf = self.folder / f"checkpoints-{RECIPE}"
        try:
            folder = make_checkpoint(
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
        except OSError as error:
            raise ParityError(
                f"seeded checkpoints cannot be kept in {self.folder}: {error}; set QWEN3VL_PARITY_CACHE to a "
                "folder that can be written"
            ) from None
        if spec.text_tie_flag is None:
            return folder
        return _with_text_flag(folder, shelf / spec.label, flag=spec.text_tie_flag)

    def reference(self, folder: str | Path, dtype: str) -> ReferenceModel:
        self._switch(folder, dtype)
        if self._reference is None:
            self._reference = ReferenceModel.load(folder, dtype=DTYPES[dtype])
        return self._reference

    def port(self, folder: Path, dtype: str) -> port.Qwen3VL:
        self._switch(folder, dtype)
        if self._port is None:
            self._port = port.load_model(folder, dtype=DTYPES[dtype])
        return self._port

    def processor(self, folder: str | Path, dtype: str) -> ReferenceProcessor:
        self._switch(folder, dtype)
        if self._processor is None:
            self._processor = ReferenceProcessor.load(folder)
        return self._processor

    def _switch(self, folder: str | Path, dtype: str) -> None:
        key = (str(folder), dtype)
        if key != self._key:
            self._key, self._reference, self._port, self._processor = key, None, None, None


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json, after the port has checked it. Raises ConfigError."""
    port.Qwen3VLConfig.from_folder(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the names and contents of config.json and all safetensors files of a folder."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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
