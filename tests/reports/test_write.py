"""Reports are written in all formats, made again from the saved JSON, and never incomplete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reports
import reports.html
from reports import ReportError, render, write_report

Document = dict[str, Any]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_written_in_all_formats(diverged: Document, folder: Path) -> None:
    paths = write_report(diverged, folder)
    assert {name: path.name for name, path in paths.items()} == {
        "json": "report.json",
        "csv": "findings.csv",
        "md": "report.md",
        "html": "report.html",
        "passes.csv": "passes.csv",
    }
    assert all(path.stat().st_size > (100 if name == "passes.csv" else 1000) for name, path in paths.items())
    assert set(_files(folder)) == {
        *(path.name for path in paths.values()),
        "pictures/image-0.png",
        "pictures/image-1.png",
    }


def test_a_suite_is_written_to_a_folder_that_does_not_exist_yet(suite: Document, tmp_path: Path) -> None:
    paths = write_report(suite, tmp_path / "deep" / "er")
    assert paths["csv"] == tmp_path / "deep" / "er" / "cases.csv"
    assert reports.load(paths["json"]) == suite


@pytest.mark.parametrize("kind", ["diverged", "suite"])
def test_everything_but_the_json_can_be_made_again(
    kind: str, request: pytest.FixtureRequest, folder: Path, tmp_path: Path
) -> None:
    paths = write_report(request.getfixturevalue(kind), folder)
    before = _files(folder)
    for name in ("csv", "md", "html"):
        paths[name].unlink()
    assert render(paths["json"]) == {name: path for name, path in paths.items() if name != "json"}
    assert _files(folder) == before, "rendering again gives the same bytes"
    elsewhere = render(paths["json"], out_dir=tmp_path / "elsewhere", formats=("html",))
    assert elsewhere["html"].read_bytes() == before["report.html"]


def test_a_missing_picture_is_named_and_the_previous_report_stays(diverged: Document, folder: Path) -> None:
    write_report(diverged, folder)
    (folder / "pictures" / "image-1.png").unlink()
    before = _files(folder)
    diverged["case"]["title"] = "another"
    with pytest.raises(ReportError, match=r"image 1 of row 1 \(drawing\).*image-1\.png does not exist"):
        write_report(diverged, folder)
    assert _files(folder) == before


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_previous_report(
    failure: type[BaseException], diverged: Document, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(diverged, folder)
    before = _files(folder)

    def fail(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(reports.html, "page", fail)
    diverged["case"]["title"] = "another"
    with pytest.raises(failure):
        write_report(diverged, folder)
    assert _files(folder) == before


def test_an_invalid_document_writes_nothing(parity: Document, folder: Path) -> None:
    before = _files(folder)
    parity["findings"][0]["figure"] = float("nan")
    with pytest.raises(ReportError, match=r"\$\.findings\[0\]\.figure is NaN"):
        write_report(parity, folder)
    assert _files(folder) == before


@pytest.mark.parametrize("formats", [(), ("pdf",), ("json", "xml"), "json"])
def test_unknown_formats_are_refused(formats: Any, parity: Document, folder: Path) -> None:
    with pytest.raises(ReportError, match="expected a selection of json, csv, md, html"):
        write_report(parity, folder, formats=formats)


def test_only_the_asked_formats_are_written(suite: Document, tmp_path: Path) -> None:
    assert list(write_report(suite, tmp_path, formats=["md"])) == ["md"]
    assert list(_files(tmp_path)) == ["report.md"]


def test_the_package_needs_no_other_room_and_no_pyplot() -> None:
    code = (
        "import sys, reports; "
        "print([name for name in ('torch', 'transformers', 'torchvision', 'port', 'reference', 'parity', "
        "'matplotlib.pyplot') if name in sys.modules])"
    )
    root = Path(reports.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "[]"
