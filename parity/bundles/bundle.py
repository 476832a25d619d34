"""A bundle that was read and whose files are all as they were written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from parity.bundles.files import BUNDLE, BundleError, check_files, digest_of
from parity.bundles.inputs import Inputs
from parity.bundles.jsonfile import check_schema, read_json
from parity.bundles.tokens.prediction import Known
from parity.bundles.trace import BundleTrace
from parity.core.floors import Floors
from parity.core.gates import DEFAULT_GATE
from parity.seams.model import Dimensions

BUNDLE_VERSION = "1.2"

# Stages whose float seams are judged by floors.
FLOORED = ("model", "generation")


@dataclass(frozen=True)
class BundleCase:
    """One case of a bundle. ``record`` is its part of ``bundle.json``, whose schema says what it holds."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.record["stages"])

    @property
    def checkpoint(self) -> str:
        return str(self.record["checkpoint"]["sha256"])

    def traits(self, stage: str) -> frozenset[str]:
        """Return what the case contains that a known mistake in a stage may need; ``*`` alone if that is not known."""
        return frozenset(self.record["traits"].get(stage, ["*"]))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that there are floors for. They are the same for all stages that have some."""
        return next((tuple(self.record[stage]["dtypes"]) for stage in FLOORED if self.record[stage] is not None), ())

    def dtypes_of(self, stage: str) -> tuple[str, ...]:
        """The dtypes that a stage is judged in. The processor has none."""
        return self.dtypes if stage in FLOORED else ("any dtype",)

    @property
    def dimensions(self) -> Dimensions:
        model = self.record["model"]
        return Dimensions(model["vision_depth"], model["vision_taps"], model["text_layers"])

    @property
    def inputs(self) -> Inputs | None:
        places = (self.record[stage]["inputs"] for stage in FLOORED if self.record[stage] is not None)
        return next((Inputs(self.folder / place) for place in places), None)

    def part(self, dtype: str, stage: str = "model") -> Mapping[str, Any]:
        """Return what the bundle has of a stage at one dtype: reference, floors, the runs that made them.

        That of the model also has the tokens of the decode steps.
        """
        part: Mapping[str, Any] = self.record[stage]["dtypes"][dtype]
        return part

    def reference(self, stage: str, dtype: str) -> BundleTrace:
        """Open the reference's trace. The processor's has no dtype."""
        name = self.record["processor"]["reference"] if stage == "processor" else self.part(dtype, stage)["reference"]
        return BundleTrace(self.folder / name, Known(self.inputs, self.record["merge"]))

    def floors(self, reference: BundleTrace, stage: str, dtype: str) -> Floors:
        """Read the floors. The processor has exact and step gates only, which need none."""
        if stage == "processor":
            return Floors(reference)
        return Floors.load(self.folder / self.part(dtype, stage)["floors"], reference)

    def count(self, kind: str) -> int:
        """Return the number of parts of a kind (``image`` or ``video``) in all rows."""
        return sum(part["type"] == kind for row in self.record["rows"] for part in row)


class Bundle:
    """A bundle folder. Opening it checks its schema, its digest, every file, and that it fits this project."""

    def __init__(self, folder: Path, *, sha256: str | None = None) -> None:
        """``sha256`` is the digest that the bundle must have. Raises BundleError or TraceError with what is wrong."""
        self.folder = folder
        if not folder.is_dir():
            raise BundleError(f"{folder} is not a folder; a bundle is a folder with a {BUNDLE}")
        document = read_json(folder / BUNDLE)
        _check_version(folder, document)
        check_schema(document, _validator(), folder / BUNDLE)
        self.document: Mapping[str, Any] = document
        self.sha256 = _checked_digest(folder, document, sha256)
        check_files(folder, document["files"])
        _check_gate(document["gate"])
        self.cases = {record["name"]: BundleCase(folder, record) for record in document["cases"]}
        _check_records(folder, document)

    @property
    def versions(self) -> Mapping[str, str]:
        versions: Mapping[str, str] = self.document["versions"]
        return versions


def gate_section() -> dict[str, Any]:
    """Return the gate of this project, as a bundle names it."""
    return {"rule": DEFAULT_GATE.describe(), "m": DEFAULT_GATE.m, "ulps": DEFAULT_GATE.ulps}


def _check_version(folder: Path, document: Any) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != BUNDLE_VERSION:
        raise BundleError(
            f"{folder / BUNDLE} has the schema {version!r}, this version reads {BUNDLE_VERSION!r}; make the bundle "
            "again with this version"
        )


def _checked_digest(folder: Path, document: Mapping[str, Any], wanted: str | None) -> str:
    digest = digest_of(document)
    if digest != document["sha256"]:
        raise BundleError(
            f"{folder / BUNDLE} was changed: its sha256 is {digest}, it says {document['sha256']}; copy it again"
        )
    if wanted is not None and digest != wanted.lower():
        raise BundleError(
            f"the bundle {folder} has the sha256 {digest}, expected {wanted.lower()}; it is another bundle"
        )
    return digest


def _check_gate(gate: Mapping[str, Any]) -> None:
    own = gate_section()
    if dict(gate) != own:
        raise BundleError(
            f"the bundle's gate is {gate['rule']!r} (m {gate['m']:g}, ulps {gate['ulps']:g}), this project's is "
            f"{own['rule']!r} (m {own['m']:g}, ulps {own['ulps']:g}); make the bundle again with this version"
        )


def _check_records(folder: Path, document: Mapping[str, Any]) -> None:
    """Every case is there once, with what its stages need, and every file belongs to something."""
    names = [record["name"] for record in document["cases"]]
    if len(set(names)) != len(names):
        raise BundleError(f"{folder / BUNDLE} has a case twice: {', '.join(names)}")
    owned: set[str] = set()
    for record in document["cases"]:
        for stage in ("processor", *FLOORED):
            if (record[stage] is not None) != (stage in record["stages"]):
                raise BundleError(f"{folder / BUNDLE}: the stages of {record['name']} do not fit its {stage!r}")
        for place in _places(record):
            below = {name for name in document["files"] if name == place or name.startswith(f"{place}/")}
            if not below:
                raise BundleError(f"{folder / BUNDLE}: {record['name']} names {place}, which is not in the bundle")
            owned |= below
    if len(owned) < len(document["files"]):
        stray = min(set(document["files"]) - owned)
        raise BundleError(f"{folder / stray} belongs to no case of the bundle")


def _places(record: Mapping[str, Any]) -> list[str]:
    """Return the files and folders that a case names."""
    requests = [record, *record["before"], *record["between"]]
    places = [part["file"] for request in requests for row in request["rows"] for part in row if "file" in part]
    if record["checkpoint"]["folder"] is not None:
        places.append(record["checkpoint"]["folder"])
    if record["processor"] is not None:
        places.append(record["processor"]["reference"])
    for stage in (record[name] for name in FLOORED if record[name] is not None):
        places.append(stage["inputs"])
        for part in stage["dtypes"].values():
            places += [part["reference"], part["floors"]]
    return places


@cache
def _validator() -> jsonschema.Draft202012Validator:
    text = resources.files("parity.bundles").joinpath("bundle.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))
