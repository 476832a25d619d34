"""The small world: every question has one right answer, held-out scenes are not used in training, pixels are right."""

from __future__ import annotations

import numpy as np
import pytest

from reference.training.batches import clip_metadata
from reference.world.drawing import draw_clip, draw_picture, middle
from reference.world.exam import by_kind, exam
from reference.world.questions import KINDS, NUMBERS, questions, vocabulary_corpus
from reference.world.scenes import CLIP_FRAMES, COLOURS, CORNERS, DIRECTIONS, SHAPES, Scene, draw_scene, goes_to


def scenes(count: int, *, clip: bool, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [draw_scene(rng, clip=clip, held_out=held_out) for _ in range(count)]


def test_scenes_are_of_the_side_that_was_asked_for_and_the_sides_share_no_arrangement() -> None:
    for clip in (False, True):
        trained = {repr(sorted(t.identity for t in s.things)) + str(s.direction) for s in scenes(400, clip=clip)}
        for scene in scenes(200, clip=clip, held_out=True):
            assert scene.held_out
            assert repr(sorted(t.identity for t in scene.things)) + str(scene.direction) not in trained


def test_no_single_thing_is_held_out() -> None:
    assert all(len(scene.things) > 1 for scene in scenes(100, clip=False, held_out=True))


def test_things_are_in_corners_of_their_own_and_movers_have_room() -> None:
    for clip in (False, True):
        for scene in scenes(200, clip=clip):
            places = [thing.place for thing in scene.things]
            assert len(set(places)) == len(places)
            assert set(places) <= set(CORNERS)
            if scene.direction is not None:
                assert goes_to(places[0], scene.direction) in CORNERS
                assert goes_to(places[0], scene.direction) not in places[1:]


@pytest.mark.parametrize("clip", [False, True])
def test_pixels_show_the_colour_where_the_thing_is(clip: bool) -> None:
    for scene in scenes(60, clip=clip):
        frames = draw_clip(scene) if clip else np.asarray(draw_picture(scene))[None]
        assert frames.shape == (CLIP_FRAMES if clip else 1, scene.height, scene.width, 3)
        for at, frame in enumerate(frames):
            for index, thing in enumerate(scene.things):
                x, y = middle(scene, index, at / (CLIP_FRAMES - 1) if clip else 0.0)
                pixel = frame[int(y * scene.height), int(x * scene.width)].astype(int)
                assert np.abs(pixel - COLOURS[thing.colour]).max() < 30, (scene, at, thing)


@pytest.mark.parametrize("clip", [False, True])
def test_answers_follow_from_the_scene(clip: bool) -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for scene in scenes(150, clip=clip):
        asked = questions(scene, rng, 50)
        assert len({question.text for question in asked}) == len(asked)
        for question in asked:
            seen.add(question.kind)
            words = question.answer.split()
            if question.kind == "count":
                (number,) = (NUMBERS.index(word) for word in words if word in NUMBERS)
                wanted = [word for word in (*SHAPES, *COLOURS) if word in question.text]
                counted = [t for t in scene.things if all(w in (t.shape, t.colour) for w in wanted)]
                assert number == len(counted)
            elif question.kind == "colour":
                (shape,) = (shape for shape in SHAPES if shape in question.text)
                assert [f"it is {t.colour}" for t in scene.things if t.shape == shape] == [question.answer]
            elif question.kind == "shape":
                (colour,) = (colour for colour in COLOURS if colour in question.text)
                assert [f"a {t.shape}" for t in scene.things if t.colour == colour] == [question.answer]
            elif question.kind == "where":
                still = scene.things[1:] if clip else scene.things
                assert question.answer in [f"at the {t.place}" for t in still]
            elif question.kind == "direction":
                assert question.answer == f"it goes {scene.direction}"
            elif question.kind == "mover":
                assert question.answer == f"the {scene.things[0].name}"
            else:
                assert question.answer.count("a ") >= len(scene.things)
    assert seen == (set(KINDS) if clip else set(KINDS) - {"direction", "mover"})


def test_directions_are_what_they_are_called() -> None:
    assert goes_to("top left", "right") == "top right"
    assert goes_to("top left", "down") == "bottom left"
    assert goes_to("top left", "up") == goes_to("top left", "left") == ""
    assert set(DIRECTIONS) == {"left", "right", "up", "down"}


def test_the_exam_is_the_same_every_time_held_out_and_marked_by_kind() -> None:
    items = exam(pictures=20, clips=10, seed=1)
    assert items == exam(pictures=20, clips=10, seed=1)
    assert all(item.scene.held_out for item in items)
    assert {item.number for item in items} == set(range(30))
    table = by_kind(items, [item.kind != "picture count" for item in items])
    assert table["picture count"]["accuracy"] == 0.0
    assert all(found["accuracy"] == 1.0 for kind, found in table.items() if kind != "picture count")
    assert sum(found["questions"] for found in table.values()) == len(items)


def test_the_corpus_has_every_word_of_every_question_and_answer() -> None:
    words = {word.strip(",.?") for line in vocabulary_corpus() for word in line.split()}
    rng = np.random.default_rng(1)
    for clip in (False, True):
        for scene in scenes(40, clip=clip):
            for question in questions(scene, rng, 20):
                assert {word.strip(",.?") for word in f"{question.text} {question.answer}".split()} <= words


def test_clip_metadata_keeps_every_frame() -> None:
    metadata = clip_metadata(np.zeros((4, 64, 96, 3), np.uint8))
    assert (metadata.frames_indices, metadata.width, metadata.height, metadata.duration) == ([0, 1, 2, 3], 96, 64, 2.0)
