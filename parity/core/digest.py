"""The sha256 by which traces and bundles name a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path


def checkpoint_digest(folder: Path) -> str:
    """Return the sha256 of the names and contents of config.json and all safetensors files of a folder."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
