"""The trained model that ships with the package. It answers questions about the small world."""

from __future__ import annotations

from pathlib import Path

from reference.errors import ReferenceModelError

_FOLDER = Path(__file__).parent / "data" / "trained"


def trained_checkpoint() -> Path:
    """Return the folder of the trained model. Raises ReferenceModelError if it is missing.

    ``nox -s train`` makes such a folder; its ``training.json`` says how it was trained.
    """
    if not (_FOLDER / "config.json").is_file():
        raise ReferenceModelError(f"the trained model is not in {_FOLDER}; reinstall the package, or give a model")
    return _FOLDER
