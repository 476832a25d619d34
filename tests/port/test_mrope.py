"""M-RoPE positions compared with an independent loop over the prompt, and angles with plain RoPE."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from port import InputError
from port.mrope import frame_positions, frequency_axes, inverse_frequencies, mrope_cos_sin, mrope_positions

IMAGE, VIDEO, PAD = 900, 901, 0


@dataclass(frozen=True)
class Media:
    """``merged`` is (frames, rows, columns) in tokens."""

    merged: tuple[int, int, int]
    video: bool


def _naive(row: list[int | Media]) -> tuple[list[int], list[tuple[int, int, int]], int]:
    """Tokens, (t, h, w) of each, and the next position: one token at a time, one frame at a time."""
    tokens: list[int] = []
    places: list[tuple[int, int, int]] = []
    now = 0
    for part in row:
        if isinstance(part, int):
            tokens.append(part)
            places.append((now, now, now))
            now += 1
            continue
        frames, rows, cols = part.merged
        for frame in range(frames):
            if part.video:  # the timestamp before each frame
                tokens.append(500 + frame)
                places.append((now, now, now))
                now += 1
            for r in range(rows):
                for c in range(cols):
                    tokens.append(VIDEO if part.video else IMAGE)
                    places.append((now, now + r, now + c))
            now += max(rows, cols)
    return tokens, places, now


def _run(rows: list[list[int | Media]], sides: list[str], extra: int, merge: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = [_naive(row)[0] for row in rows]
    width = max(map(len, tokens)) + extra
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, (row_tokens, side) in enumerate(zip(tokens, sides, strict=True)):
        start = width - len(row_tokens) if side == "left" else 0
        ids[index, start : start + len(row_tokens)] = torch.tensor(row_tokens, dtype=torch.long)
        mask[index, start : start + len(row_tokens)] = 1
    positions, delta = _positions(ids, mask, rows, merge)
    return positions, delta, mask.bool()


def _positions(ids: Tensor, mask: Tensor, rows: list[list[int | Media]], merge: int = 2) -> tuple[Tensor, Tensor]:
    grids: dict[bool, list[tuple[int, int, int]]] = {False: [], True: []}
    for row in rows:
        for part in row:
            if isinstance(part, Media):
                t, h, w = part.merged
                grids[part.video].append((t, h * merge, w * merge))
    return mrope_positions(
        ids,
        mask,
        image_grid_thw=torch.tensor(grids[False]) if grids[False] else None,
        video_grid_thw=torch.tensor(grids[True]) if grids[True] else None,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        merge=merge,
    )


SIZE = st.integers(1, 4)
PARTS = st.one_of(
    st.integers(1, 400),
    st.builds(Media, st.tuples(st.just(1), SIZE, SIZE), st.just(False)),
    st.builds(Media, st.tuples(st.integers(1, 3), SIZE, SIZE), st.just(True)),
)
ROWS = st.lists(st.lists(PARTS, min_size=1, max_size=7), min_size=1, max_size=4)


@settings(max_examples=120, deadline=None)
@given(rows=ROWS, sides=st.lists(st.sampled_from(["left", "right"]), min_size=4, max_size=4), extra=st.integers(0, 3),
       merge=st.integers(1, 3))  # fmt: skip
def test_positions_and_delta_follow_the_walk(
    rows: list[list[int | Media]], sides: list[str], extra: int, merge: int
) -> None:
    positions, delta, real = _run(rows, sides[: len(rows)], extra, merge)
    assert positions.dtype == delta.dtype == torch.int64
    assert positions.shape == (3, *real.shape)
    for index, row in enumerate(rows):
        tokens, places, following = _naive(row)
        assert positions[:, index][:, real[index]].T.tolist() == [list(place) for place in places]
        assert not positions[:, index][:, ~real[index]].any(), "padding has position 0"
        assert delta[index].item() == following - len(tokens)


def test_positions_by_hand() -> None:
    # Two tokens, a picture of 2 x 3 tokens, one token: the picture starts at 2, the text after it at 2 + 3.
    ids = torch.tensor([[7, 8, *[IMAGE] * 6, 9]])
    positions, delta = _positions(ids, torch.ones_like(ids), [[7, 8, Media((1, 2, 3), False), 9]])
    assert positions[:, 0].tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert delta.tolist() == [[6 - 9]]


def test_frame_positions_run_along_the_rows_first() -> None:
    assert frame_positions(3, 2).tolist() == [[0] * 6, [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]]


def test_text_alone_counts_up_from_the_first_real_token() -> None:
    ids = torch.tensor([[PAD, PAD, 4, 5, 6]])
    positions, delta = _positions(ids, torch.tensor([[0, 0, 1, 1, 1]]), [[4, 5, 6]])
    assert positions[:, 0].tolist() == [[0, 0, 0, 1, 2]] * 3
    assert delta.tolist() == [[0]]


def test_placeholder_ids_under_the_padding_take_no_grid() -> None:
    ids = torch.tensor([[IMAGE, VIDEO, 4, IMAGE, 5]])
    positions, _ = _positions(ids, torch.tensor([[0, 0, 1, 1, 1]]), [[4, Media((1, 1, 1), False), 5]])
    assert positions[0, 0].tolist() == [0, 0, 0, 1, 2]


def _fails(ids: list[list[int]], rows: list[list[int | Media]]) -> str:
    tensor = torch.tensor(ids)
    with pytest.raises(InputError) as caught:
        _positions(tensor, torch.ones_like(tensor), rows)
    return str(caught.value)


def test_too_few_tokens_for_a_grid_are_reported_with_both_numbers() -> None:
    message = _fails([[1, *[IMAGE] * 5, 2]], [[Media((1, 2, 3), False)]])
    assert "5 image tokens" in message
    assert "needs 6 (2 x 3 after merging)" in message


def test_too_many_tokens_for_the_grids_are_reported() -> None:
    message = _fails([[*[IMAGE] * 2], [*[IMAGE] * 2]], [[Media((1, 1, 2), False)]])
    assert "row 1" in message
    assert "all 1 grids of image_grid_thw are used up" in message


def test_tokens_without_any_grid_are_reported() -> None:
    assert "all 0 grids of video_grid_thw" in _fails([[3, VIDEO]], [[3]])


def test_a_grid_without_tokens_is_reported() -> None:
    message = _fails([[1, 2, IMAGE]], [[Media((1, 1, 1), False), Media((1, 2, 2), False)]])
    assert "image_grid_thw[1] has no tokens in any row: 2 grids, 1 frames left over" in message


def test_a_video_whose_frames_are_not_all_there_is_reported() -> None:
    message = _fails([[500, VIDEO, VIDEO, 501, VIDEO, VIDEO]], [[Media((3, 1, 2), True)]])
    assert "video_grid_thw[0] has no tokens in any row: 1 grids, 1 frames left over" in message


def test_a_frame_interrupted_by_text_is_reported() -> None:
    assert "1 image tokens" in _fails([[IMAGE, 4, IMAGE]], [[Media((1, 1, 2), False)]])


def test_the_released_sections_interleave_up_to_their_length_and_time_has_the_rest() -> None:
    assert "".join("thw"[axis] for axis in frequency_axes((24, 20, 20)).tolist()) == "thw" * 20 + "tttt"


@pytest.mark.parametrize(
    ("section", "pattern"),
    [
        ((4, 2, 2), "thwthwtt"),
        ((5, 4, 3), "thwthwthwtht"),
        ((4, 3, 3), "thwthwthwt"),
        ((2, 2, 2), "thwthw"),
        ((8, 0, 0), "tttttttt"),
        ((3, 0, 1), "ttwt"),
    ],
)
def test_sections_by_hand(section: tuple[int, int, int], pattern: str) -> None:
    assert "".join("thw"[axis] for axis in frequency_axes(section).tolist()) == pattern


@given(height=st.integers(0, 12), width=st.integers(0, 12), more=st.integers(0, 9))
@settings(deadline=None)
def test_each_axis_turns_as_many_frequencies_as_its_section_says(height: int, width: int, more: int) -> None:
    section = (max(height, width) * 3 - height - width + more, height, width)
    counts = torch.bincount(frequency_axes(section), minlength=3).tolist()
    assert tuple(counts) == section


def test_inverse_frequencies_are_powers_of_theta() -> None:
    found = inverse_frequencies(16, 5_000_000.0, torch.float64)
    assert found.dtype == torch.float64
    assert torch.allclose(
        found, torch.tensor([5_000_000.0 ** (-i / 8) for i in range(8)], dtype=torch.float64), rtol=1e-15
    )


@settings(max_examples=30, deadline=None)
@given(positions=st.lists(st.integers(0, 5000), min_size=1, max_size=9))
def test_equal_axes_are_plain_rope(positions: list[int]) -> None:
    inv_freq = inverse_frequencies(16, 10_000.0, torch.float64)
    ids = torch.tensor(positions).expand(3, 1, -1)
    cos, sin = mrope_cos_sin(ids, inv_freq, frequency_axes((4, 2, 2)))
    angle = torch.outer(torch.tensor(positions, dtype=torch.float64), inv_freq)
    assert cos.dtype == torch.float64
    assert torch.equal(cos[0], torch.cat([angle, angle], -1).cos())
    assert torch.equal(sin[0], torch.cat([angle, angle], -1).sin())


def test_each_frequency_turns_with_its_own_axis() -> None:
    inv_freq = inverse_frequencies(16, 10_000.0, torch.float64)
    ids = torch.tensor([[[3, 1]], [[50, 2]], [[700, 4]]])  # (3, 1, 2)
    _, sin = mrope_cos_sin(ids, inv_freq, frequency_axes((4, 2, 2)))
    expected = torch.tensor([3.0, 50, 700, 3, 50, 700, 3, 3], dtype=torch.float64) * inv_freq
    assert torch.allclose(sin[0, 0], expected.sin().repeat(2), atol=1e-15)
