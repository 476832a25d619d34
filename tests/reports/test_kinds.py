"""Every kind of document is written completely, made again from its JSON, and refused if it contradicts itself."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image, ImageColor

import reports
from reports import ReportError, document, render, write_report
from reports.kinds import KINDS
from reports.matrix import CELLS, cells
from tests.reports.kind_samples import SIMPLE
from tests.reports.page_checks import Page, html, markdown

Document = dict[str, Any]
Sample = Callable[[str], Document]
FILES = {
    "mutants": ["report.json", "mutants.csv", "report.md", "report.html", "mutants.png"],
    "exam": ["report.json", "exam.csv", "report.md", "report.html"],
    "calibration": [f"calibration-float32.{ending}" for ending in ("json", "csv", "md", "html")],
    "processor": ["report.json", "findings.csv", "report.md", "report.html"],
    "comparison": ["report.json", "findings.csv", "report.md", "report.html"],
    "judgement": ["report.json", "findings.csv", "report.md", "report.html"],
    "diagnosis": ["report.json", "diagnosis.csv", "report.md", "report.html"],
    "blackbox": ["report.json", "places.csv", "report.md", "report.html"],
    "tokens": ["report.json", "tokens.csv", "report.md", "report.html"],
    "signoff": ["report.json", "items.csv", "report.md", "report.html"],
    "difference": ["report.json", "seams.csv", "report.md", "report.html"],
    "history": ["report.json", "history.csv", "report.md", "report.html"],
    "bench": ["report.json", "bench.csv", "report.md", "report.html"],
    "activations": ["report.json", "activations.csv", "report.md", "report.html"],
}
FREE = (
    *("title", "reason", "seam", "step", "note", "row", "worst_row", "command", "platform", "why", "question"),
    *("prompt", "detail", "rule", "run", "text", "component", "source", "why_not_run", "version"),
)
#: Characters that could control a terminal: escape, the one-byte CSI, a change of the direction of writing.
CONTROLS = "\x1b[31m\x07\x7f\x9b2J\u202e\u2028"


def _csv(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO((folder / name).read_text(encoding="utf-8")), dtype=str, keep_default_na=False)


def test_every_kind_has_a_sample_and_a_schema() -> None:
    assert {"run", "suite", *SIMPLE} == set(KINDS)
    schemas = Path(reports.__file__).parent / "schema"
    assert {path.name.removesuffix(".schema.json") for path in schemas.iterdir()} == {*KINDS, "shared"}


@pytest.mark.parametrize("kind", SIMPLE)
def test_all_files_are_written_and_made_again(kind: str, document_of: Sample, tmp_path: Path) -> None:
    sample = document_of(kind)
    paths = write_report(sample, tmp_path / "out")
    assert [path.name for path in paths.values()] == FILES[kind]
    assert document.load(paths["json"]) == sample
    before = {path: path.read_bytes() for path in paths.values()}
    others = [path for name, path in paths.items() if name != "json"]
    for path in others:
        path.unlink()
    assert list(render(paths["json"]).values()) == others
    assert {path: path.read_bytes() for path in paths.values()} == before


@pytest.mark.parametrize("kind", SIMPLE)
def test_other_files_are_named_after_the_saved_one(kind: str, document_of: Sample, tmp_path: Path) -> None:
    saved = document.save(document_of(kind), path=tmp_path / "kept.json")
    assert [path.name for path in render(saved).values()] == [f"kept.{ending}" for ending in KINDS[kind].formats]


def test_a_file_is_never_rendered_over_itself(document_of: Sample, tmp_path: Path) -> None:
    saved = document.save(document_of("tokens"), path=tmp_path / "kept.md")
    before = saved.read_bytes()
    with pytest.raises(ReportError, match=r"kept\.md would be replaced.*another folder"):
        render(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("kind", SIMPLE)
def test_pages_are_well_formed_and_self_contained(kind: str, document_of: Sample, tmp_path: Path) -> None:
    sample = document_of(kind)
    text = html(sample, pictures=tmp_path)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.all("h1")) == len(page.all("script")) == 1
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert all(attrs.get("alt") and (attrs["src"] or "").startswith("data:") for attrs in page.all("img"))
    assert {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs} <= set(page.ids)
    for attrs in page.all("a"):
        target = attrs["href"] or ""
        if target in KINDS[kind].reports(sample):
            continue
        assert target.startswith("#")
        assert target[1:] in page.ids, f"{target} leads nowhere"
    for attrs in page.all("form"):
        assert attrs["data-for"] in page.ids
    assert "http" not in re.sub(r'http-equiv="', "", text)
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    # A sign-off leads with its milestones.
    assert headings[0] == ("Milestones" if kind == "signoff" else "Environment")
    assert "Environment" in headings


@pytest.mark.parametrize("kind", SIMPLE)
def test_markdown_tables_have_one_width(kind: str, document_of: Sample) -> None:
    text = markdown(document_of(kind))
    assert text.startswith("# ")
    width, tables = None, 0
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        tables += width is None and cells is not None
        assert width is None or cells in (None, width), line
        width = cells
    assert tables >= 2


def _plant(node: Any, text: str) -> Any:
    """The document with more text at the end of every text that the schema leaves free."""
    if isinstance(node, dict):
        return {
            key: value + text if key in FREE and isinstance(value, str) else _plant(value, text)
            for key, value in node.items()
        }
    return [_plant(value, text) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize("kind", [*SIMPLE, "parity", "suite"])
def test_no_text_file_can_control_a_terminal(kind: str, document_of: Sample, folder: Path) -> None:
    sample = _plant(document_of(kind), CONTROLS)
    if kind == "processor":
        sample["files"] = [speed["title"] for speed in sample["throughput"]]
    if kind == "parity":
        sample["pictures"] = []
        sample["findings"][0]["by_kind"] = {CONTROLS: 0.5}
    written = write_report(sample, folder)
    for name in ("json", "csv", "md", "html"):
        text = written[name].read_text(encoding="utf-8")
        found = {character for character in text if character in CONTROLS and not character.isprintable()}
        # JSON keeps what it was given, and escapes what a terminal would obey.
        assert found <= (set("\u202e\u2028") if name == "json" else set()), (name, found)
    assert document.load(written["json"]) == sample
    assert "\ufffd2J" in written["md"].read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", SIMPLE)
def test_hostile_text_stays_text(kind: str, document_of: Sample, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' | `code` {{ 7*7 }}"
    sample = _plant(document_of(kind), hostile)
    if kind == "processor":
        sample["files"] = [speed["title"] for speed in sample["throughput"]]
    if kind == "activations":
        sample["models"] = {name + hostile: figures for name, figures in sample["models"].items()}
    text = html(sample, pictures=tmp_path)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == (1 if kind == "mutants" else 0)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "{{ 7*7 }}" in text
    # In Markdown a tag may stand only inside code, where it is shown as it is.
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown(sample))
    assert "<script" not in outside
    assert "<img" not in outside


def _more_mutants(sample: Document) -> None:
    sample["mutants"] *= 401


def _set(path: str, value: object) -> Callable[[Document], None]:
    def plant(sample: Document) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        holder: Any = sample
        for part in parents:
            holder = holder[part]
        holder[last] = value

    return plant


@pytest.mark.parametrize(
    ("kind", "plant", "said"),
    [
        ("mutants", _set("totals.caught", 3), ["$.totals.caught is 3, expected 2"]),
        ("mutants", _set("totals.mutants", 4), ["$.totals.mutants is 4, expected 5"]),
        ("mutants", _set("totals.real", 0), ["$.totals.real is 0, expected 1"]),
        ("mutants", _set("totals.survived", 0), ["$.totals.survived is 0, expected 1"]),
        ("mutants", _set("totals.not_exposed", 0), ["$.totals.not_exposed is 0, expected 1"]),
        ("mutants", _set("totals.invisible", 0), ["$.totals.invisible is 0, expected 1"]),
        ("mutants", _set("totals.localised", 2), ["$.totals.localised is 2, expected 1"]),
        ("mutants", _set("totals.kill_rate", 1.0), ["$.totals.kill_rate is 1.0, expected 0.5"]),
        ("mutants", _set("totals.localisation_rate", 1.0), ["$.totals.localisation_rate is 1.0, expected 0.5"]),
        ("mutants", _set("totals.proven", True), ["$.totals.proven is True, expected False"]),
        ("mutants", _set("mutants.0.fate", "survived"), ["$.mutants[0].fate is 'survived'", "photo"]),
        ("mutants", _set("mutants.1.localised", True), ["$.mutants[1].localised is True, expected False"]),
        ("mutants", _set("mutants.2.missed_by", []), ["$.mutants[2].missed_by is [], expected ['photo']"]),
        ("mutants", _set("mutants.0.caught_by", ["text"]), ["$.mutants[0].caught_by is ['text']", "photo"]),
        ("mutants", _set("mutants.0.outcomes", {}), ["$.mutants[0].outcomes has []", "photo"]),
        ("mutants", _set("mutants.1.id", "survivor"), ["$.mutants[2].id is 'survivor' a second time"]),
        ("mutants", _set("mutants.0.stage", "front"), ["$.mutants[0].stage", "processor"]),
        ("mutants", _set("cases.1.name", "photo"), ["$.cases[1].name is 'photo' a second time"]),
        ("mutants", _set("cover.cases", ["nowhere"]), ["$.cover.cases has ['nowhere']"]),
        ("mutants", _set("cases", []), ["expected one outcome for each of $.cases: []"]),
        ("mutants", _more_mutants, ["$.mutants is", "a list no longer than 2000"]),
        ("mutants", _set("trials", []), ["$.trials is not a field"]),
        ("mutants", _set("mutants.0.outcomes.photo.colour", 1), ["$.mutants[0].outcomes.photo.colour is not a field"]),
        ("exam", _set("engines.2.not_run", 0), ["$.engines[2].asked + not_run is 4, expected 6"]),
        ("exam", _set("engines.0.right", 7), ["$.engines[0].right is 7, expected at most 6"]),
        ("exam", _set("engines.2.accuracy", 1.0), ["$.engines[2].accuracy is 1.0, expected 0.75"]),
        ("exam", _set("engines.2.accuracy", None), ["$.engines[2].accuracy is None, expected 0.75"]),
        ("exam", _set("engines.2.by_kind", {}), ["$.engines[2].by_kind is 0, expected 4"]),
        ("exam", _set("engines.1.engine", "reference"), ["$.engines[1].engine is 'reference' a second time"]),
        ("exam", _set("disagreements.0.answers", {"nobody": "x"}), ["$.disagreements[0].answers has ['nobody']"]),
        ("exam", _set("disagreements.0.number", 6), ["$.disagreements[0].number is 6, expected less than"]),
        ("exam", _set("verdict.exit_code", 1), ["$.verdict.exit_code is 1, expected 0"]),
        ("exam", _set("clip_form", "avi"), ["$.clip_form", "gif"]),
        ("calibration", _set("comparisons.isolated.worst.0.isolation", "accumulated"), ["expected 'isolated'"]),
        ("calibration", _set("comparisons.isolated.worst.0.m", 1.5), ["m is 1.5, expected at most smallest_m"]),
        ("calibration", _set("comparisons.isolated.worst.0.case", "x"), ["case is 'x', expected one of $.cases"]),
        ("calibration", _set("comparisons.isolated.false_alarms", 3), ["false_alarms is 3, but"]),
        ("calibration", _set("comparisons.isolated.smallest_m", 2.5), ["false_alarms is 0, but"]),
        ("calibration", _set("environment.machine", "x"), ["$.environment.machine is not a field"]),
        ("calibration", _set("dtype", "../x"), ["$.dtype", "the name of a dtype"]),
        ("calibration", _set("readings", {}), ["$.readings is not a field"]),
        ("processor", _set("throughput.0.title", "x"), ["$.throughput[0].title is 'x', expected one of $.files"]),
        ("processor", _set("findings.1.status", "diverged"), ["$.findings[1].status is 'diverged'", "PARITY"]),
        ("comparison", _set("findings.3.index", 7), ["$.findings[3].index is 7"]),
        ("comparison", _set("verdict.first_divergence", 0), ["$.verdict.first_divergence is 0", "'ok'"]),
        ("comparison", _set("verdict.exit_code", 0), ["$.verdict.exit_code is 0, expected 1"]),
        ("comparison", _set("gate.ulps", None), ["$.gate.ulps is null", "number"]),
        ("judgement", _set("verdict.value", "DIVERGED"), ["$.verdict.exit_code is 2, expected 1"]),
        ("judgement", _set("verdict", {"value": "PARITY", "exit_code": 0, "reason": "x"}), ["expected 'INVALID'"]),
        ("judgement", _set("cases.0.findings.3.index", 7), ["$.cases[0].findings[3].index is 7"]),
        ("judgement", _set("cases.1.findings", []), ["$.cases[1].findings is empty under the verdict PARITY"]),
        ("judgement", _set("cases.0.report", "../x.html"), ["$.cases[0].report", "inside the report folder"]),
        ("judgement", _set("bundle.sha256", "x"), ["$.bundle.sha256 is"]),
        ("tokens", _set("verdict", {"value": "PARITY", "exit_code": 0, "reason": "x"}), ["$.tokens differ"]),
        ("tokens", _set("verdict.exit_code", 3), ["$.verdict.exit_code is 3, expected 1"]),
        ("tokens", _set("tokens.port", [-1]), ["$.tokens.port[0] is -1", "at least 0"]),
        ("activations", _set("models.trained", {"top1": 0.5}), ["$.models.trained has the figures ['top1']"]),
        ("activations", _set("models.trained.vision_stream", "x"), ["$.models.trained.vision_stream is", "number"]),
        ("bench", _set("works.0.taps.of_port", 0.5), ["$.works[0].taps.of_port is 0.5", "seconds / port"]),
        ("bench", _set("works.0.ratio.low", 99.0), ["$.works[0].ratio: the middle", "is not between 99.0"]),
        ("signoff", _set("verdict.exit_code", 0), ["$.verdict.exit_code is 0, expected 1"]),
        ("signoff", _set("verdict.value", "INVALID"), ["expected 'REFUSED', the worst of $.milestones"]),
        ("signoff", _set("milestones.0.items.1.waived", False), ["$.milestones[0].items[1].verdict is DIVERGED"]),
        ("signoff", _set("milestones.0.waivers", []), ["waived is true, but $.milestones[0].waivers has none"]),
        ("signoff", _set("milestones.1.phase", 1), ["$.milestones[1].phase is '1' a second time"]),
        ("signoff", _set("milestones.1.verdict", "FINE"), ["$.milestones[1].verdict", "one of"]),
        ("signoff", _set("milestones.1.items", []), ["$.milestones[1].items is []"]),
        ("signoff", _set("digest", "x"), ["$.digest is"]),
        *((kind, _set("colour", "red"), ["$.colour is not a field"]) for kind in SIMPLE),
        *((kind, _set("schema_version", "1.0"), ['$.schema_version is "1.0", expected "2.0"']) for kind in SIMPLE),
        *((kind, _set("environment", {}), ["$.environment.created is missing", "expected string"]) for kind in SIMPLE),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named(
    kind: str, plant: Callable[[Document], None], said: list[str], document_of: Sample
) -> None:
    sample = document_of(kind)
    document.validate(sample)  # without the fault it passes
    plant(sample)
    with pytest.raises(ReportError) as refused:
        document.validate(sample)
    for piece in said:
        assert piece in str(refused.value)


def test_prompts_of_different_length_are_no_parity(document_of: Sample) -> None:
    sample = document_of("tokens")
    sample["tokens"]["engine"] = list(sample["tokens"]["port"])
    sample["verdict"] = {"value": "PARITY", "exit_code": 0, "reason": "every token is the same"}
    document.validate(sample)
    sample["prompt_tokens"]["engine"] = 24
    with pytest.raises(ReportError, match=r"\$\.prompt_tokens differ"):
        document.validate(sample)


def test_the_kill_matrix_leads_with_what_was_not_caught(document_of: Sample, tmp_path: Path) -> None:
    text = html(document_of("mutants"), pictures=tmp_path)
    banner = " ".join(
        "".join(Page("<header" + text.partition("<header")[2].partition("</header>")[0] + "</header>").text).split()
    )
    assert "2 of 4 caught" in banner
    assert "Kill rate 50.0 %" in banner
    assert "planted seam for 50.0 % of the caught mutants (1 of 2)" in banner
    assert "Survived: 1 survivor the mistake survivor; missed by photo" in banner
    assert "Not exposed by these cases: 1 not-exposed" in banner
    assert text.index("Kill matrix</h2>") < text.index("Mutants</h2>")
    for name in ("Survived", "Not exposed by these cases", "Caught, but not at the planted seam"):
        assert f"## {name}\n" in markdown(document_of("mutants"))


def test_the_picture_of_the_matrix_has_a_cell_for_each_outcome(document_of: Sample, tmp_path: Path) -> None:
    sample = document_of("mutants")
    names = [[CELLS[cell][0] for cell in row] for row in cells(sample)]
    assert names == [
        ["caught at the planted seam", "caught at the planted seam"],
        ["caught elsewhere", "not applicable"],
        ["survived", "nothing to see in this case"],
        ["not applicable", "not applicable"],
        ["nothing to see in this case", "not applicable"],
    ]
    png = write_report(sample, tmp_path)["png"].read_bytes()
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.format == "PNG"
        colours = {colour for _, colour in opened.convert("RGB").getcolors(1 << 20) or []}
    assert {ImageColor.getrgb(colour) for _, colour in CELLS} <= colours
    assert base64.b64encode(png).decode() in html(sample, pictures=tmp_path)


def test_the_tables_hold_what_the_documents_say(document_of: Sample, tmp_path: Path) -> None:
    for kind in SIMPLE:
        write_report(document_of(kind), tmp_path / kind, formats=("csv",))
    exam = _csv(tmp_path / "exam", "exam.csv")
    assert exam[exam.engine == "mistral.rs 0.9.5"].values.tolist() == [
        ["mistral.rs 0.9.5", "picture colour", "4", "0.75"],
        ["mistral.rs 0.9.5", "all", "4", "0.75"],
    ]
    tokens = _csv(tmp_path / "tokens", "tokens.csv")
    assert tokens.values.tolist()[1] == ["1", "13001", "13002", "False"]
    assert tokens.values.tolist()[3] == ["3", "8", "", "False"]
    activations = _csv(tmp_path / "activations", "activations.csv")
    assert activations.values.tolist() == [["logits_entropy", "6.2", "0.31"], ["vision_stream", "", "22.5"]]
    mutants = _csv(tmp_path / "mutants", "mutants.csv")
    assert list(mutants.photo) == ["at seam", "elsewhere", "survived", "not applicable", "survived"]
    assert list(mutants.stage) == ["processor", "weights", "model", "model", "model"]
    calibration = _csv(tmp_path / "calibration", "calibration-float32.csv")
    assert list(calibration.m) == ["2.69", "1.08", "2.5"]
    assert len(_csv(tmp_path / "comparison", "findings.csv")) == len(document_of("comparison")["findings"])


@pytest.mark.parametrize(("kind", "said"), [("exam", "91.7 %"), ("tokens", "13001"), ("processor", "2.77\u00d7"),
                                            ("activations", "logits_entropy"), ("calibration", "45,678"),
                                            ("comparison", "text.layers.1.deepstack"),
                                            ("judgement", "another checkpoint"),
                                            ("signoff", "SIGNED OFF with 1 waiver")])  # fmt: skip
def test_the_pages_hold_the_figures(kind: str, said: str, document_of: Sample, tmp_path: Path) -> None:
    sample = document_of(kind)
    if kind == "exam":
        sample["engines"][0] |= {"right": 11, "asked": 12, "not_run": 0, "accuracy": 11 / 12}
        sample["questions"] = 12
        sample["engines"][0]["by_kind"] = {"picture colour": {"questions": 12, "accuracy": 0.9167}}
        for engine in sample["engines"][1:]:
            engine["not_run"] = 12 - engine["asked"]
        document.validate(sample)
    assert said in html(sample, pictures=tmp_path)
    assert said in markdown(sample).replace("\\_", "_")
