"""Runs that must end in PARITY, and their output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parity.cli.samples import Parity, snapshot


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--batch", 3),
        ("--batch", 3, "--padding-side", "right"),
        ("--dtype", "bfloat16"),
        ("--dtype", "float16"),
        ("--chunk", 7),
        ("--threads", 1),
        ("--seed", 3),
    ],
    ids=lambda options: " ".join(map(str, options)) or "plain",
)
def test_the_port_is_at_parity(options: tuple[object, ...], run: Parity, media: Path) -> None:
    answer = run(*options, "--image", media / "good.png", "--out", "report")
    answer.succeeds()
    *_, verdict, place = answer.stdout.splitlines()
    assert verdict.startswith("PARITY  all ")
    assert place == "report: report/report.html"
    assert "\x1b" not in answer.stdout


def test_text_alone(run: Parity) -> None:
    run("--prompt", "How many legs has a spider?").succeeds()


def test_without_arguments_the_trained_model_answers_a_question(parity: Parity, work: Path) -> None:
    answer = parity("run", "--no-timing", "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["checkpoint"]["name"] == "the trained model"
    (row,) = document["case"]["rows"]
    assert row["images"] == 1
    (said,) = document["case"]["generated"]
    # Four decode steps after the first token: the answer's beginning, in words of the small world.
    assert said["text"].split()[0] in ("a", "at", "it", "there")
    (folder,) = (work / "parity-reports").iterdir()
    assert folder.name.endswith("-trained-picture")


def test_the_trained_model_takes_pictures_of_ones_own(parity: Parity, media: Path) -> None:
    answer = parity("run", "--image", media / "good.png", "--no-timing", "--steps", 1, "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["checkpoint"]["name"] == "the trained model"
    assert document["case"]["rows"][0]["text"] == "[good.png] Describe this."


def test_the_seeded_checkpoint_is_shown_a_photo(parity: Parity, work: Path) -> None:
    answer = parity("run", "seeded", "--no-timing", "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["checkpoint"]["name"] == "seeded tiny, seed 0"
    assert document["case"]["steps"] == ["prefill", "decode 1", "decode 2", "decode 3", "decode 4"]
    seams = {finding["seam"]: finding for finding in document["findings"]}
    assert seams["processor.images.0.resized"]["exact_share"] == 1.0
    (folder,) = (work / "parity-reports").iterdir()
    assert folder.name.endswith("-photo")


def test_the_report_says_what_the_verdict_cost(parity: Parity, work: Path) -> None:
    answer = parity("run", "seeded", "--prompt", "Why?", "--steps", 1, "--no-timing", "--out", "report")
    answer.succeeds()
    document = json.loads((work / "report" / "report.json").read_text(encoding="utf-8"))
    cost, passes = document["cost"], document["cost"]["passes"]
    # The yardstick, four floor runs and the port; all but the first are accumulated and isolated.
    assert cost["forwards"]["passes"] == len(passes) == 11
    assert cost["forwards"]["count"] == 22
    assert cost["ratio"] == pytest.approx(cost["seconds"] / sum(each["alone"] for each in passes))
    assert all(0 < each["alone"] < each["seconds"] for each in passes)
    assert sum(part["seconds"] for part in cost["parts"]) == pytest.approx(cost["seconds"])
    assert cost["kept"] is None
    assert document["kernels"]["kernels"] == "fast"
    line = next(line for line in answer.stdout.splitlines() if line.startswith("time to verdict"))
    assert "times its 22 forwards in 11 passes" in line
    for name in ("report.md", "report.html"):
        page = (work / "report" / name).read_text(encoding="utf-8")
        assert "22 forwards in 11 passes" in page
        assert "kernels of the port" in page
    assert (work / "report" / "passes.csv").read_text(encoding="utf-8").splitlines()[-1].startswith("time to verdict,")


def test_with_a_kept_yardstick_only_the_port_runs(parity: Parity, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3VL_PARITY_SECRET", str(work / "secret" / "seal"))
    command = ("run", "seeded", "--prompt", "Why?", "--steps", 1, "--no-timing", "--cache", "kept", "--json")
    first, second = (json.loads(parity(*command).stdout) for _ in range(2))
    assert [document["cost"]["forwards"]["passes"] for document in (first, second)] == [11, 2]
    (key,) = [path.name for path in (work / "kept").iterdir()]
    assert (first["cost"]["kept"], second["cost"]["kept"]) == (None, key)
    # Everything else is the same, to the last bit.
    for document in (first, second):
        del document["cost"], document["environment"]
    assert first == second


def test_files_through_both_processors(parity: Parity, media: Path) -> None:
    answer = parity("processor", "--image", media / "good.png", "--video", media / "good.mp4", "--rounds", 1, "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["verdict"]["value"] == "PARITY"
    assert [item["title"] for item in document["throughput"]] == ["good.png", "good.mp4"]
    assert all(item["ratio"] > 0 for item in document["throughput"])
    shown = parity("processor", "--image", media / "good.png", "--rounds", 1)
    shown.succeeds()
    assert "reference / port" in shown.stdout
    assert "equal" in shown.stdout
    parity("processor").refuses("nothing to process")


def test_scenes_are_written_with_their_questions(parity: Parity, work: Path) -> None:
    answer = parity("scenes", "shown", "--pictures", 2, "--clips", 1)
    answer.succeeds()
    assert answer.stdout == "shown/questions.json: 12 questions about 2 pictures and 1 clips\n"
    questions = json.loads((work / "shown" / "questions.json").read_text(encoding="utf-8"))
    assert {line["file"] for line in questions} == {"0.png", "1.png", "2.mp4"}
    assert {line["kind"].split()[0] for line in questions} == {"picture", "clip"}
    assert all(line["question"] and line["answer"] for line in questions)
    assert all((work / "shown" / line["file"]).stat().st_size > 100 for line in questions)
    before = snapshot(work)
    parity("scenes", "shown").refuses("shown exists already")
    parity("scenes", "other", "--pictures", 0, "--clips", 0).refuses("nothing to write")
    assert snapshot(work) == before


def test_engines_are_asked_side_by_side(parity: Parity, tiny: Path) -> None:
    options = (tiny, "--pictures", 4, "--clips", 2, "--engine", "reference", "--engine", "port")
    answer = parity("exam", *options, "--json")
    document = json.loads(answer.stdout)
    assert answer.code == document["verdict"]["exit_code"] == 1, "seeded weights see nothing"
    assert document["disagreements"] == []
    assert [engine["asked"] for engine in document["engines"]] == [24, 24]
    assert "right answers" in parity("exam", *options).stdout
    parity("exam", tiny, "--pictures", 0, "--clips", 0).refuses("nothing to ask")
    parity("exam", tiny, "--pictures", 1, "--clips", 0, "--engine", "port").succeeds(code=3)


def test_pictures_and_videos_of_ones_own(parity: Parity, media: Path, tiny: Path) -> None:
    answer = parity(
        "run",
        tiny,
        "--no-timing",
        "--steps",
        1,
        "--image",
        media / "good.png",
        "--video",
        media / "good.mp4",
        "--prompt",
        "What?",
        "--json",
    )
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["verdict"]["value"] == "PARITY"
    (row,) = document["case"]["rows"]
    assert (row["text"], row["images"], row["videos"]) == ("[good.png] [good.mp4] What?", 1, 1)
    assert document["checkpoint"]["name"] == "tiny"


def test_a_case_of_the_suite(parity: Parity) -> None:
    answer = parity("run", "--case", "batch-3", "--no-timing", "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert (document["case"]["name"], document["case"]["batch"]) == ("batch-3", 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--case", "nope"), ("'nope'", "batch-3")),
        (("--case", "batch-3", "--prompt", ""), ("--case has its own",)),
        (("--case", "batch-3", "--steps", 1), ("--case has its own",)),
        (("--case", "batch-3", "--chunk", 5), ("--case has its own",)),
        (("--dtype", "int8"), ("--dtype", "int8")),
        (("--steps", -1), ("--steps",)),
        (("--batch", 0), ("--batch",)),
        (("--chunk", 0), ("--chunk",)),
        (("--seed", 3), ("--seed", "parity run seeded --seed 3")),
        (("--wrong",), ("--wrong",)),
    ],
)
def test_wrong_options(options: tuple[object, ...], words: tuple[str, ...], parity: Parity) -> None:
    parity("run", *options).refuses(*words)


def test_every_seam_has_a_line_on_request(run: Parity, media: Path) -> None:
    short = run("--image", media / "good.png")
    long = run("--image", media / "good.png", "--every-seam")
    assert "text.layers.0 (" in short.stdout
    assert "text.layers.0 (" not in long.stdout
    assert "text.layers.0.attn.q_rope" in long.stdout


def test_names_that_look_like_markup_are_printed_as_they_are(run: Parity, media: Path) -> None:
    name = "a [/red] [bold]b :car:"
    answer = run("--image", media / "good.png", "--out", name)
    answer.succeeds()
    assert answer.stdout.splitlines()[-1] == f"report: {name}/report.html"


def test_timing(parity: Parity, media: Path) -> None:
    answer = parity("run", "seeded", "--steps", 1, "--image", media / "good.png")
    answer.succeeds()
    assert "timing (median)" in answer.stdout


@pytest.mark.parametrize(("case", "steps"), [("conv3d-tiny", ["weights"]), ("processor-odd", ["processor"])])
def test_a_case_without_a_model_runs_like_any_other(case: str, steps: list[str], parity: Parity, work: Path) -> None:
    answer = parity("run", "--case", case, "--out", "report", "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    assert document["case"]["steps"] == steps
    assert {finding["step"] for finding in document["findings"]} == set(steps)
    assert document["performance"] is None
    assert (work / "report" / "report.html").is_file()


def test_a_suite_of_two_cases_is_incomplete(parity: Parity, work: Path) -> None:
    answer = parity("suite", "--case", "text", "--case", "batch-2-text", "--out", "report", "--json")
    answer.succeeds(code=3)
    document = json.loads(answer.stdout)
    assert document["verdict"]["value"] == "INCOMPLETE"
    assert [case["verdict"] for case in document["cases"]] == ["PARITY", "PARITY"]
    assert {phase["verdict"] for phase in document["phases"]} == {"INCOMPLETE"}
    for case in document["cases"]:
        assert (work / "report" / case["report"]).is_file()
    shown = parity("report", "report")
    shown.succeeds()


def test_wrong_options_of_the_suite(parity: Parity, work: Path) -> None:
    parity("suite", "--case", "nope").refuses("nope", "batch-3")
    parity("suite", "--case", "batch-3", "--phase", 1).refuses("batch-3 is not in phase 1")
    assert list(work.iterdir()) == []


def test_the_traceback_is_there_on_request(parity: Parity) -> None:
    answer = parity("run", "nonsense", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("parity: nonsense is not a folder")
