"""Finds the local folder of a checkpoint that a user names by its folder or its hub id."""

from __future__ import annotations

from pathlib import Path

from reference.errors import ReferenceModelError

# Only safetensors, JSON, templates and tokenizer text files: nothing that could be executed or unpickled.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "merges.txt"]


def local_folder(source: str | Path) -> Path | None:
    """Return the folder itself, or None for a name that may be a hub id. Raises ReferenceModelError for others."""
    path, name = Path(source).expanduser(), str(source)
    if path.is_dir():
        return path
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ReferenceModelError(f"{source} is not a folder; give a checkpoint folder or a hub id like owner/name")
    return None


def checkpoint_folder(source: str | Path) -> Path:
    """Return the folder itself, or the downloaded snapshot of a hub id such as ``Qwen/Qwen3-VL-2B-Instruct``.

    Raises ReferenceModelError if it is neither.
    """
    folder = local_folder(source)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # takes a second to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=_PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ReferenceModelError(
            f"{source} is neither a local folder nor a hub model that can be reached: {error}"
        ) from error
