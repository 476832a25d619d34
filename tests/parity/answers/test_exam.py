"""The exam: answers are counted correctly, and the trained model passes with both the reference and the port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from parity.answers.exam import WANTED, Answers, Exam
from parity.cases.case import TINY, TRAINED
from parity.core.errors import ParityError
from parity.documents.exam import exam_document
from parity.engines.port import PortAnswers
from parity.engines.questions import Answer, Question
from parity.engines.registry import engine
from parity.runs.loader import Loader
from reference.media import PicturePath, VideoPath
from reference.world.drawing import draw_clip
from reference.world.exam import exam
from reference.world.scenes import draw_scene

TITLES = {"reference": "transformers 5", "port": "port", "mistralrs": "mistral.rs 1"}
ITEMS = exam(pictures=6, clips=3, seed=7)


def right() -> list[str | None]:
    return [item.question.answer for item in ITEMS]


def by(name: str, answers: list[str | None], why: str = "") -> Answers:
    return Answers(name, TITLES[name], answers, why)


def judged(*found: Answers) -> dict[str, Any]:
    return exam_document(ITEMS, found, clip_form="mp4", environment={})


def test_equal_and_right_answers_are_parity() -> None:
    found = judged(by("reference", right()), by("port", right()))
    assert found["verdict"]["value"] == "PARITY"
    assert found["disagreements"] == []
    assert [summary["accuracy"] for summary in found["engines"]] == [1.0, 1.0]
    assert sum(kind["questions"] for kind in found["engines"][0]["by_kind"].values()) == len(ITEMS)


def test_one_other_answer_is_no_parity_and_is_named() -> None:
    wrong = right()
    wrong[2] = "nonsense"
    found = judged(by("reference", right()), by("port", wrong))
    assert (found["verdict"]["value"], len(found["disagreements"])) == ("DIVERGED", 1)
    assert found["disagreements"][0]["number"] == 2
    assert found["disagreements"][0]["answers"]["port"] == "nonsense"


def test_a_model_that_does_not_see_is_no_parity_though_both_agree() -> None:
    blind: list[str | None] = ["nonsense"] * len(ITEMS)
    found = judged(by("reference", blind), by("port", blind))
    assert found["verdict"]["value"] == "DIVERGED"
    assert "0.0%" in found["verdict"]["reason"]


def test_what_was_not_asked_counts_as_not_run_and_judges_nobody() -> None:
    nothing: list[str | None] = [None] * len(ITEMS)
    engines = [
        by("reference", right()),
        by("port", right()),
        by("mistralrs", nothing, "clips: no"),
    ]
    found = judged(*engines)
    assert found["verdict"]["value"] == "PARITY"
    assert found["engines"][2]["not_run"] == len(ITEMS)
    assert found["engines"][2]["accuracy"] is None
    assert judged(*engines[1:])["verdict"]["value"] == "INCOMPLETE"


def test_questions_come_with_files_and_the_same_seed_gives_the_same_exam() -> None:
    assert exam(pictures=6, clips=3, seed=7) == ITEMS
    assert exam(pictures=6, clips=3, seed=8) != ITEMS
    with Exam(ITEMS) as asked:
        kinds = [type(file) for file in asked.files]
        assert {PicturePath, VideoPath} == set(kinds)
        assert all(file.path.stat().st_size > 0 for file in asked.files)
        folder = asked.files[0].path.parent
    assert not folder.exists()


def test_clips_as_gif_have_the_same_frames_in_fewer_colours() -> None:
    with Exam(ITEMS, "gif") as asked:
        place = next(place for place, file in enumerate(asked.files) if isinstance(file, VideoPath))
        with Image.open(asked.files[place].path) as gif:
            shown = [np.asarray(frame.convert("RGB"), dtype=float) for frame in ImageSequence.Iterator(gif)]
            assert gif.info["duration"] == 500
        drawn = draw_clip(ITEMS[place].scene).astype(float)
    assert len(shown) == len(drawn) == 4
    # Tall noise in dark colours loses most; what moves is still where it was.
    assert all(np.abs(left - right).mean() < 6 for left, right in zip(shown, drawn, strict=True))
    assert np.abs(shown[0] - drawn[3]).mean() > np.abs(shown[0] - drawn[0]).mean() + 3


def test_no_item_was_in_training() -> None:
    trained = draw_scene(np.random.default_rng(0), clip=False, held_out=False)
    assert not trained.held_out
    assert all(item.scene.held_out for item in ITEMS)


def test_the_port_answers_as_the_reference_from_the_files_on(loader: Loader) -> None:
    folder = loader.checkpoint(TINY)
    with Exam(ITEMS) as asked:
        first, second = (asked.ask(name, engine(name), folder) for name in ("reference", "port"))
    assert first.answers == second.answers
    # Seeded weights see nothing, and that is said.
    assert judged(first, second)["verdict"]["value"] == "DIVERGED"


def test_the_trained_model_sees_through_the_port_from_the_files_on(loader: Loader) -> None:
    with Exam(ITEMS) as asked:
        found = asked.ask("port", PortAnswers(), loader.checkpoint(TRAINED))
    accuracy = found.accuracy(ITEMS)
    assert accuracy is not None
    assert accuracy >= WANTED, found.answers


def test_what_an_engine_refuses_counts_as_not_run(tmp_path: Path) -> None:
    class NoClips(PortAnswers):
        def answer(self, folder: Path, questions: Any, **options: Any) -> list[Answer]:
            if questions[0].videos:
                raise ParityError("it decodes no clips")
            return [Answer.of_tokens([1], "red", 3) for _ in questions]

    with Exam(ITEMS) as asked:
        found = asked.ask("port", NoClips(), tmp_path)
    clips = [item.scene.direction is not None for item in ITEMS]
    assert [answer is None for answer in found.answers] == clips
    assert found.why == "clips: it decodes no clips"
    assert judged(by("reference", right()), found)["verdict"]["value"] == "INCOMPLETE"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_question_has_its_media_before_its_text(kind: str) -> None:
    path = Path("somewhere")
    question = Question.about("What?", [path]) if kind == "image" else Question.about("What?", videos=[path])
    assert question.message() == {
        "role": "user",
        "content": [{"type": kind, kind: path}, {"type": "text", "text": "What?"}],
    }
