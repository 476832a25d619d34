"""A bundle with traces to judge, and helpers that change them as a careless or a dishonest hand would."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from parity.bundles.files import BUNDLE, digest_of, inventory
from parity.bundles.packing import compared_rows, pack
from parity.bundles.trace import SEAMS, BundleTrace, compared
from parity.core.trace import SeamKey
from tests.parity.cli.samples import call

# Two rows of text, padded on the left; and a picture.
TEXT, PICTURE = "batch-2-text", "tied"


@dataclass(frozen=True)
class Golden:
    """``bundle`` has the cases; ``traces/CASE`` has what ``parity run --traces`` writes. Tests must not change them."""

    bundle: Path
    traces: Path

    @property
    def sha256(self) -> str:
        found: str = json.loads((self.bundle / "bundle.json").read_text(encoding="utf-8"))["sha256"]
        return found

    def subject(self, case: str, stage: str = "model") -> Path:
        return self.traces / case / ("subject" if stage == "model" else f"subject-{stage}")


def traces(case: str, folder: Path, *options: object) -> Path:
    """Write the traces of a run of the port."""
    report = folder.parent / f"{folder.name}-report"
    answer = call("run", "--case", case, "--no-timing", "--traces", folder, "--out", report, *options)
    assert answer.code in (0, 1), answer.stderr
    return folder


Change = Callable[[Path], None]
Edit = Callable[[Any], None]


def forge(folder: Path) -> None:
    """Make all digests of a bundle again, so that they fit what it holds now."""
    path = folder / BUNDLE
    document = json.loads(path.read_text(encoding="utf-8"))
    document["files"] = inventory(folder)
    document["sha256"] = digest_of(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def edited(path: Path, edit: Edit) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def in_bundle(edit: Edit) -> Change:
    """Change bundle.json."""
    return lambda folder: edited(folder / BUNDLE, edit)


def in_case(name: str, edit: Edit) -> Change:
    """Change a case's record in bundle.json."""
    return in_bundle(lambda document: edit(next(case for case in document["cases"] if case["name"] == name)))


def in_seams(trace: str, edit: Edit) -> Change:
    """Change seams.json of a trace of the bundle."""
    return lambda folder: edited(folder / "cases" / trace / SEAMS, edit)


def of_seam(name: str, **fields: Any) -> Edit:
    """Set fields of a seam in seams.json, at every call."""

    def edit(document: Any) -> None:
        found = [seam for seam in document["seams"] if seam["name"] == name]
        assert found
        for seam in found:
            seam.update(fields)

    return edit


def without(matches: Callable[[dict[str, Any]], bool]) -> Edit:
    """Drop seams from a manifest: seams.json of a bundle or manifest.json of a trace."""

    def edit(document: Any) -> None:
        kept = [seam for seam in document["seams"] if not matches(seam)]
        assert len(kept) < len(document["seams"])
        document["seams"] = kept

    return edit


def number(trace: str, key: SeamKey, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the numbers of a seam of the bundle's reference."""

    def apply(folder: Path) -> None:
        place = folder / "cases" / trace
        found = BundleTrace(place)
        entry = found.entries()[key]
        array = change(found.read(key).copy())
        packed = pack(compared_rows(array, entry.token_axes, compared(found, entry)))
        _store(place, str(key), packed)

    return apply


def labels(trace: str, key: SeamKey, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change row labels of the bundle's reference."""

    def apply(folder: Path) -> None:
        place = folder / "cases" / trace
        kinds = change(BundleTrace(place).labels(key).copy())
        _store(place, str(key), pack(kinds.reshape(1, -1)))

    return apply


def _store(place: Path, tensor: str, packed: np.ndarray) -> None:
    for path in place.glob("*.safetensors"):
        tensors = load_file(path)
        if tensor in tensors:
            tensors[tensor] = packed
            save_file(tensors, path)
            return
    raise AssertionError(tensor)


def tensors(file: str, edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    """Change a plain safetensors file of the bundle: inputs or floors. Its metadata stay."""

    def apply(folder: Path) -> None:
        path = folder / "cases" / file
        with safe_open(path, framework="np") as handle:
            metadata = handle.metadata()
        held = load_file(path)
        edit(held)
        save_file(held, path, metadata=metadata)

    return apply


def both(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for change in changes:
            change(folder)

    return apply


def link(name: str) -> Change:
    """Replace a file by a link to a copy of it."""

    def apply(folder: Path) -> None:
        copy = folder.parent / "elsewhere"
        os.replace(folder / name, copy)
        (folder / name).symlink_to(copy)

    return apply


def traced(folder: Path, seam: SeamKey, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the numbers of a seam of a trace folder."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    place = next(item for item in manifest["seams"] if (item["name"], item["call"]) == seam)
    held = load_file(folder / place["file"])
    held[place["tensor"]] = np.ascontiguousarray(change(held[place["tensor"]]))
    save_file(held, folder / place["file"])
