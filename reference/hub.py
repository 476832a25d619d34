"""Finds the local folder of a checkpoint that a user names by its folder or its hub id."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from reference.errors import ReferenceModelError

# Only safetensors, JSON, templates and tokenizer text files: nothing that could be executed or unpickled.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "merges.txt"]


def checkpoint_folder(source: str | Path) -> Path:
    """Return the folder itself, or the downloaded snapshot of a hub id such as ``Qwen/Qwen3-VL-2B-Instruct``.

    Raises ReferenceModelError if it is neither.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    name = str(source)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ReferenceModelError(f"{source} is not a folder; give a checkpoint folder or a hub id like owner/name")
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ReferenceModelError(
            f"{source} is neither a local folder nor a hub model that can be reached: {error}"
        ) from error
