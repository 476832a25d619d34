"""The schema of documents: valid documents pass, and every planted fault is refused with its path."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from reports import ReportError, document
from tests.reports.report_samples import run_document, suite_document

Document = dict[str, Any]
SMALL = {
    "parity": run_document(decode_steps=0),
    "diverged": run_document(diverged=True, decode_steps=0),
    "suite": suite_document(),
}


@pytest.mark.parametrize("name", ["parity", "diverged", "suite"])
def test_a_sound_document_is_saved_and_loaded_unchanged(
    name: str, document_of: Callable[[str], Document], tmp_path: Path
) -> None:
    sample = document_of(name)
    path = document.save(sample, path=tmp_path / "report.json")
    assert document.load(path) == sample


@pytest.mark.parametrize("kind", document.KINDS)
def test_the_schemas_are_schemas_and_share_their_environment(kind: str) -> None:
    made = document.schema(kind)
    Draft202012Validator.check_schema(made)
    assert made["$id"] == f"urn:qwen3vl-parity:report:{kind}:2.0"
    # A calibration is published, so its environment leaves out the machine.
    shared = document.schema("run")["properties"]["environment"]
    assert (made["properties"]["environment"] == shared) is (kind != "calibration")


@pytest.mark.parametrize("kind", document.KINDS)
def test_the_schema_files_are_what_any_validator_can_use(kind: str, document_of: Callable[[str], Document]) -> None:
    # The files refer to shared.schema.json by its $id; expanded or not, they say the same.
    folder = Path(document.__file__).parent / "schema"
    files = {
        name: json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8")) for name in (kind, "shared")
    }
    registry = Registry().with_resources([(files["shared"]["$id"], Resource.from_contents(files["shared"]))])
    plain = Draft202012Validator(files[kind], registry=registry)
    expanded = Draft202012Validator(document.schema(kind))
    assert "$ref" not in json.dumps(document.schema(kind))
    sample = SMALL["parity"] if kind == "run" else document_of(kind)
    wrong = sample | {"environment": {}, "schema_version": "1.0"}
    for validator in (plain, expanded):
        assert list(validator.iter_errors(sample)) == []
    assert [error.message for error in plain.iter_errors(wrong)] == [
        error.message for error in expanded.iter_errors(wrong)
    ]


def test_every_object_of_the_schemas_is_closed_and_requires_its_fields() -> None:
    # These objects are open on purpose: their keys are names, of packages, kinds of token, cases and so on.
    open_objects = []

    def walk(node: object, path: str) -> None:
        if isinstance(node, dict):
            kinds = node.get("type")
            if kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
                if node.get("additionalProperties") is not False:
                    open_objects.append(path)
                elif path == "bench":  # without --check nothing is judged
                    assert node["required"] == [key for key in node["properties"] if key not in ("check", "verdict")]
                elif path.endswith("environment") and "device" in node["properties"]:  # the CPU is not described
                    assert node["required"] == [key for key in node["properties"] if key != "device"], path
                elif not path.endswith("cases"):
                    assert node["required"] == list(node["properties"]), path
                else:
                    assert node["required"] == [key for key in node["properties"] if key != "generated"], path
            for key, value in node.items():
                step = path if key in ("properties", "items") else f"{path}.{key}"
                walk(value, step)

    for kind in document.KINDS:
        walk(document.schema(kind), kind)
    named = {path for path in open_objects if not path.endswith(("environment.packages", "environment.device"))}
    assert sorted(named) == [
        "activations.models",
        "activations.models.additionalProperties",
        "bench.machine.kernels",
        "comparison.findings.by_kind",
        "exam.disagreements.answers",
        "exam.engines.by_kind",
        "judgement.bundle.versions",
        "judgement.cases.findings.by_kind",
        "mutants.broken",
        "mutants.mutants.outcomes",
        "mutants.not_planted",
        "processor.findings.by_kind",
        "run.findings.by_kind",
        "run.kernels",
        "signoff.checkpoints",
        "signoff.run.stale",
        "signoff.versions",
        "suite.made_with.checkpoints",
        "suite.made_with.versions",
    ]
    devices = {path for path in open_objects if path.endswith("environment.device")}
    assert devices == {f"{kind}.environment.device" for kind in document.KINDS if kind != "calibration"}
    assert len(set(open_objects)) == len(named) + len(document.KINDS) + len(devices)


def _set(path: str, value: object) -> Callable[[Document], None]:
    def plant(sample: Document) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        holder: Any = sample
        for part in parents:
            holder = holder[part]
        holder[last] = value

    return plant


def _drop(path: str) -> Callable[[Document], None]:
    def plant(sample: Document) -> None:
        *parents, last = path.split(".")
        holder: Any = sample
        for part in parents:
            holder = holder[int(part) if part.isdigit() else part]
        del holder[last]

    return plant


@pytest.mark.parametrize(
    ("name", "plant", "said"),
    [
        ("parity", _drop("verdict"), ["$.verdict is missing", "expected object"]),
        ("parity", _drop("verdict.value"), ["$.verdict.value is missing", "PARITY"]),
        ("parity", _drop("findings.4.gate"), ["$.findings[4].gate is missing", "number or null"]),
        ("parity", _set("kind", "walk"), ["$.kind is", "walk", "run"]),
        ("parity", _set("schema_version", "1.0"), ["$.schema_version", '"1.0"', '"2.0"']),
        ("parity", _set("environment.created", "yesterday"), ["$.environment.created", "yesterday", "ISO-8601"]),
        ("parity", _set("verdict.value", "FINE"), ["$.verdict.value", "FINE", "INCOMPLETE"]),
        ("parity", _set("verdict.exit_code", 1), ["$.verdict.exit_code is 1", "expected 0", "PARITY"]),
        ("parity", _set("findings.3.status", "fine"), ["$.findings[3].status", '"fine"', '"diverged"']),
        ("parity", _set("findings.3.rows", -1), ["$.findings[3].rows is -1", "at least 0"]),
        ("parity", _set("findings.3.rows", 1.5), ["$.findings[3].rows is 1.5", "integer or null"]),
        ("parity", _set("findings.3.rows", True), ["$.findings[3].rows is true", "integer or null"]),
        ("parity", _set("findings.3.colour", "red"), ["$.findings[3].colour is not a field", "seam"]),
        ("parity", _set("findings.3.index", 7), ["$.findings[3].index is 7", "expected 3"]),
        ("parity", _set("findings.9.figure", float("nan")), ["$.findings[9].figure is NaN", "null"]),
        ("parity", _set("findings.9.gate", float("inf")), ["$.findings[9].gate is Infinity", "null"]),
        ("parity", _set("findings.9.by_kind.image", float("-inf")), ["$.findings[9].by_kind.image is -Infinity"]),
        ("parity", _set("findings.9.figure", np.float64(1e-7)), ["$.findings[9].figure", "numpy.float64"]),
        ("parity", _set("findings.9.shape", (1, 2)), ["$.findings[9].shape", "tuple"]),
        ("parity", _set("findings.9.note", "\ud800"), ["$.findings[9].note", "surrogate"]),
        ("parity", _set("findings.9.status", "diverged"), ["$.findings[9].status", "PARITY", "vision.rotary.cos"]),
        ("parity", _set("findings.9.side", "subject"), ["$.findings[9].side is 'subject'", "'ok'", "expected null"]),
        ("parity", _set("findings.9.side", "both"), ["$.findings[9].side", '"both"', "null"]),
        ("parity", _set("findings.9.origin", "elsewhere"), ["$.findings[9].origin", "starts here"]),
        ("parity", _set("findings.9.reading", "noise"), ["$.findings[9].reading is not a field"]),
        ("parity", _set("blind_to", []), ["$.blind_to is not a field"]),
        ("diverged", _set("verdict.first_divergence", 10_000), ["first_divergence is 10000", "which has 153"]),
        ("diverged", _set("verdict.first_divergence", 0), ["first_divergence is 0", "inputs.input_ids", "ok"]),
        ("parity", _set("pictures.0.grid", [20, 16]), ["$.pictures[0].errors has 19 rows", "expected 20"]),
        ("parity", _set("pictures.1.errors.2", [0.0]), ["$.pictures[1].errors[2] has 1 values", "expected 12"]),
        ("parity", _set("pictures.0.file", "../secret.png"), ["$.pictures[0].file", "secret", "inside the"]),
        ("parity", _set("pictures.0.file", "/etc/x.png"), ["$.pictures[0].file", "relative"]),
        ("parity", _set("pictures.0.file", "file:x.png"), ["$.pictures[0].file", "relative"]),
        ("parity", _set("case.generated.1.row", 2), ["$.case.generated[1].row is 2", "which has 2"]),
        ("suite", _set("cases.2.verdict", "OK"), ["$.cases[2].verdict", '"OK"', "PARITY"]),
        ("suite", _set("cases.2.exit_code", 3), ["$.cases[2].exit_code is 3", "expected 0"]),
        ("suite", _set("cases.2.phase", 9), ["$.cases[2].phase is 9", "[1, 2, 3]"]),
        ("suite", _set("cases.2.report", "javascript:alert(1)"), ["$.cases[2].report", "relative"]),
        ("suite", _set("cases.2.report", "a/../../b"), ["$.cases[2].report", "relative"]),
        ("suite", _set("phases.1.phase", 1), ["$.phases[1].phase is 1 a second time"]),
        ("suite", _drop("totals.forwards"), ["$.totals.forwards is missing"]),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named_with_its_path(
    name: str,
    plant: Callable[[Document], None],
    said: list[str],
    tmp_path: Path,
) -> None:
    sample = copy.deepcopy(SMALL[name])
    document.validate(sample)  # without the fault it passes
    plant(sample)
    with pytest.raises(ReportError) as refused:
        document.save(sample, path=tmp_path / "report.json")
    for piece in said:
        assert piece in str(refused.value)
    assert not (tmp_path / "report.json").exists()


def test_a_parity_suite_cannot_hold_a_case_that_is_not(suite: Document) -> None:
    suite["verdict"] = {"value": "PARITY", "exit_code": 0, "reason": "wishful"}
    with pytest.raises(ReportError, match=r"cases\[\d+\]\.verdict is DIVERGED"):
        document.validate(suite)


def test_many_faults_are_counted_and_not_all_shown(parity: Document) -> None:
    for finding in parity["findings"]:
        finding["status"] = "fine"
    left = len(parity["findings"]) - 5
    with pytest.raises(
        ReportError, match=rf"(?s)findings\[0\]\.status.*findings\[4\]\.status.*and {left} more"
    ) as refused:
        document.validate(parity)
    assert str(refused.value).count('is "fine"') == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1', "line 1, column 8"),
        ("[]", "$.kind is null"),
        ('{"a": 1e999, "kind": "run"}', "$.a is Infinity"),
        (b"\xff\xfe", "byte 0 is 0xff"),
    ],
)
def test_an_unreadable_file_is_named(content: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReportError) as refused:
        document.load(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="does not exist"):
        document.load(tmp_path / "none.json")
    with pytest.raises(ReportError, match="is a folder"):
        document.load(tmp_path)


def test_the_json_is_strict_and_keeps_other_scripts_readable(parity: Document, tmp_path: Path) -> None:
    parity["case"]["rows"][0]["text"] = "\u6f22\u5b57 \u2028 </script>"
    path = document.save(parity, path=tmp_path / "report.json")
    assert "\u6f22\u5b57" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["case"]["rows"][0]["text"].startswith("\u6f22")


def test_an_invalid_run_without_findings_is_a_sound_document() -> None:
    sample = run_document()
    sample |= {"findings": [], "pictures": [], "logits": None, "performance": None}
    sample["verdict"] |= {"value": "INVALID", "exit_code": 2, "seams_compared": 0}
    document.validate(sample)
