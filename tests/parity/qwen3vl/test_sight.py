"""Answers side by side: counted honestly, and the shipped model sees through the reference and the port alike."""

from __future__ import annotations

import numpy as np
from PIL import Image

from parity.cli.sight import WANTED, sight_document
from parity.qwen3vl.cases import TINY, TRAINED
from parity.qwen3vl.sight import Answers, Exam, ask_port, ask_reference, conversation
from parity.qwen3vl.workbench import Workbench
from port import GenerationConfig
from reference.processor import PicturePath, VideoPath
from reference.world.drawing import draw_clip
from reference.world.exam import exam
from reference.world.scenes import draw_scene

ITEMS = exam(pictures=6, clips=3, seed=7)


def right() -> list[str | None]:
    return [item.question.answer for item in ITEMS]


def test_equal_and_right_answers_are_parity() -> None:
    found = sight_document(ITEMS, [Answers("transformers", right()), Answers("port", right())])
    assert found["verdict"] == "PARITY"
    assert found["disagreements"] == []
    assert [summary["accuracy"] for summary in found["engines"]] == [1.0, 1.0]
    assert sum(kind["questions"] for kind in found["engines"][0]["by_kind"].values()) == len(ITEMS)


def test_one_other_answer_is_no_parity_and_is_named() -> None:
    wrong = right()
    wrong[2] = "nonsense"
    found = sight_document(ITEMS, [Answers("transformers", right()), Answers("port", wrong)])
    assert (found["verdict"], len(found["disagreements"])) == ("DIVERGED", 1)
    assert found["disagreements"][0]["number"] == 2
    assert found["disagreements"][0]["answers"]["port"] == "nonsense"


def test_a_model_that_does_not_see_is_no_parity_though_both_agree() -> None:
    blind: list[str | None] = ["nonsense"] * len(ITEMS)
    found = sight_document(ITEMS, [Answers("transformers", blind), Answers("port", blind)])
    assert found["verdict"] == "DIVERGED"
    assert "0.0%" in found["reason"]


def test_what_was_not_asked_counts_as_not_run_and_judges_nobody() -> None:
    nothing: list[str | None] = [None] * len(ITEMS)
    engines = [
        Answers("transformers", right()),
        Answers("port", right()),
        Answers("mistral.rs 1", nothing, "clips: no"),
    ]
    found = sight_document(ITEMS, engines)
    assert found["verdict"] == "PARITY"
    assert found["engines"][2]["not_run"] == len(ITEMS)
    assert found["engines"][2]["accuracy"] is None
    assert sight_document(ITEMS, engines[1:])["verdict"] == "INCOMPLETE"


def test_questions_come_with_files_and_the_same_seed_gives_the_same_exam() -> None:
    assert exam(pictures=6, clips=3, seed=7) == ITEMS
    assert exam(pictures=6, clips=3, seed=8) != ITEMS
    with Exam(ITEMS) as asked:
        kinds = [type(file) for file in asked.files]
        assert {PicturePath, VideoPath} == set(kinds)
        assert all(file.path.stat().st_size > 0 for file in asked.files)
        assert conversation(ITEMS[0], asked.files[0])[0]["content"][0]["image"] == asked.files[0].path
        folder = asked.files[0].path.parent
    assert not folder.exists()


def test_clips_as_gif_have_the_same_frames_in_fewer_colours() -> None:
    with Exam(ITEMS, "gif") as asked:
        place = next(place for place, file in enumerate(asked.files) if isinstance(file, VideoPath))
        with Image.open(asked.files[place].path) as gif:
            shown = []
            for number in range(gif.n_frames):
                gif.seek(number)
                shown.append(np.asarray(gif.convert("RGB"), dtype=float))
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


def test_the_port_answers_as_the_reference_from_the_files_on(bench: Workbench) -> None:
    folder = bench.checkpoint(TINY)
    config = GenerationConfig.from_folder(folder)
    with Exam(ITEMS) as asked:
        reference = bench.reference(folder, "float32")
        reference.use_attention("sdpa")
        first = ask_reference(asked, reference, bench.processor(folder, "float32"), config.eos_token_ids)
        second = ask_port(asked, bench.port(folder, "float32"), bench.port_front(folder).processor, config)
    assert first.answers == second.answers
    # Seeded weights see nothing, and that is said.
    assert sight_document(ITEMS, [first, second])["verdict"] == "DIVERGED"


def test_the_trained_model_sees_through_the_port_from_the_files_on(bench: Workbench) -> None:
    folder = bench.checkpoint(TRAINED)
    config = GenerationConfig.from_folder(folder)
    with Exam(ITEMS) as asked:
        found = ask_port(asked, bench.port(folder, "float32"), bench.port_front(folder).processor, config)
    assert found.summary(ITEMS)["accuracy"] >= WANTED, found.answers
