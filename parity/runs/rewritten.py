"""Copies of a checkpoint with other fields in its JSON files, or stored in another way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from parity.cases.case import Edit
from parity.core.errors import ParityError
from reference.template import tools_template

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def rewritten(source: Path, target: Path, *, edits: Sequence[Edit], rewrites: Sequence[str]) -> Path:
    """Return ``target``, a copy of ``source`` with the changes. It is made if it does not exist.

    Raises ParityError for a rewrite that does not exist, and for a field whose section does not exist.
    """
    unknown = [name for name in rewrites if name not in REWRITES]
    if unknown:
        raise ParityError(f"there is no rewrite {unknown[0]!r}; choose from {', '.join(REWRITES)}")
    if target.is_dir():
        return target
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        for file, field, value in edits:
            _edit(work / file, field, value)
        for name in rewrites:
            REWRITES[name](work)
        try:
            os.replace(work, target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@cache
def version() -> str:
    """Return a text that differs if what is written differs, so that older copies are not used."""
    return hashlib.sha256(Path(__file__).read_bytes() + tools_template().encode()).hexdigest()[:8]


def _edit(path: Path, field: str, value: Any) -> None:
    """Set a field of a JSON file by its dotted path, or remove it if the value is None."""
    document = _read(path)
    *sections, last = field.split(".")
    place = document
    for section in sections:
        if not isinstance(place.get(section), dict):
            raise ParityError(f"{path} has no section {section!r} for the field {field!r}")
        place = place[section]
    if value is None:
        place.pop(last, None)
    else:
        place[last] = list(value) if isinstance(value, tuple) else value
    _write(path, document)


def _index_of_one(folder: Path) -> None:
    """An index beside a single file, which names that file alone."""
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        keys = sorted(file.keys())
    size = (folder / _WEIGHTS).stat().st_size
    _write(folder / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(keys, _WEIGHTS)})


def _misaligned(folder: Path) -> None:
    """Tensors that do not begin at multiples of their size: the header is as long as it happens to be."""
    raw = (folder / _WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = raw[8 : 8 + length].rstrip(b" "), raw[8 + length :]
    header += b" " * ((1 - len(header)) % 4)  # 8 + its length is one more than a multiple of 4
    (folder / _WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data)


def _mixed_dtypes(folder: Path) -> None:
    """Norms stay in float32, all other tensors are bfloat16, and those of the vision tower's mergers float16."""
    import torch  # only needed here
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / _WEIGHTS)
    for name, tensor in tensors.items():
        if "norm" not in name:
            tensors[name] = tensor.to(torch.float16 if "merger" in name else torch.bfloat16)
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def _one_processor_file(folder: Path) -> None:
    """The processor's configs in the sections of one file, as transformers 5 saves them, with the template in it."""
    document: dict[str, Any] = {"processor_class": "Qwen3VLProcessor"}
    for name, file in (
        ("image_processor", "preprocessor_config.json"),
        ("video_processor", "video_preprocessor_config.json"),
    ):
        document[name] = _read(folder / file)
        (folder / file).unlink()
    _write(folder / "processor_config.json", document)


def _older_pixel_limits(folder: Path) -> None:
    """The limits of pictures as ``min_pixels`` and ``max_pixels``, as in older files, beside another ``size``."""
    document = _read(folder / "preprocessor_config.json")
    size = document["size"]
    document |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    document["size"] = {"shortest_edge": 3136, "longest_edge": 12845056}
    _write(folder / "preprocessor_config.json", document)


def _tools(folder: Path) -> None:
    """A chat template with tools, tool calls, their results and reasoning."""
    _tools_in_json(folder)
    (folder / "chat_template.jinja").write_text(tools_template(), encoding="utf-8")
    _edit(folder / "tokenizer_config.json", "chat_template", tools_template())


def _tools_in_json(folder: Path) -> None:
    """That template in the first of its places, beside another one in the other places."""
    _write(folder / "chat_template.json", {"chat_template": tools_template()})


def _tools_in_jinja(folder: Path) -> None:
    """That template in its own file, beside another one in the tokenizer's config."""
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(tools_template(), encoding="utf-8")


REWRITES: Mapping[str, Callable[[Path], None]] = {
    "index-of-one": _index_of_one,
    "misaligned": _misaligned,
    "mixed-dtypes": _mixed_dtypes,
    "one-processor-file": _one_processor_file,
    "older-pixel-limits": _older_pixel_limits,
    "tools": _tools,
    "tools-in-json": _tools_in_json,
    "tools-in-jinja": _tools_in_jinja,
}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
