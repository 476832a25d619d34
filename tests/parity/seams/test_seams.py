"""The list of expected seams, and the port's taps compared with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from parity.core.trace import PADDING, SeamKey
from parity.runs.recorder import Recorder, both, join, to_numpy
from parity.seams.labels import KINDS, TokenKind, row_labels
from parity.seams.model import (
    POSITIONS,
    Dimensions,
    expected_model_seams,
    model_specs,
)
from parity.seams.spec import SeamSpec, label_key
from port import Inputs, Qwen3VL, Qwen3VLConfig, listening
from reference.shapes import TINY, config_dict
from reference.weights import tensor_values

CONFIG = config_dict(
    TINY,
    token_ids={
        "<|endoftext|>": 690, "<|im_end|>": 691, "<|vision_start|>": 692, "<|vision_end|>": 693,
        "<|image_pad|>": 694, "<|video_pad|>": 695,
    },
)  # fmt: skip
SMALL = Dimensions(vision_depth=6, vision_taps=3, text_layers=5)


# -- the list ----------------------------------------------------------------------------------------------------


def test_dimensions_come_from_the_config() -> None:
    assert Dimensions.from_config(CONFIG) == SMALL


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("videos", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("size", [SMALL, Dimensions(1, 0, 1), Dimensions(27, 3, 64)])
def test_the_seams_are_as_many_as_the_model_has(images: bool, videos: bool, steps: int, size: Dimensions) -> None:
    seams = expected_model_seams(size, decode_steps=steps, images=images, videos=videos)
    keys = [item.key for item in seams]
    assert max(Counter(keys).values()) == 1
    passes = images + videos
    inputs = 2 + 3 * passes + 3  # ids, mask; pixels, grid, mask; positions, delta, embeddings
    tower = 6 + 9 * size.vision_depth + size.vision_taps + 1
    text = 1 + 3 + 13 * size.text_layers + 2  # embeddings in; cos, sin, mask; layers; norm and logits
    deepstack = size.vision_taps if passes else 0
    assert len(keys) == inputs + passes * tower + text + deepstack + steps * (text + 3)


def test_calls_count_up_without_holes() -> None:
    seams = expected_model_seams(SMALL, decode_steps=3, images=True, videos=True)
    calls: dict[str, list[int]] = {}
    for item in seams:
        calls.setdefault(item.key.name, []).append(item.key.call)
    assert all(found == list(range(len(found))) for found in calls.values())
    assert {name: len(found) for name, found in calls.items() if len(found) == 4}.keys() >= {"logits", "input_ids"}
    assert calls["vision.merger"] == [0, 1], "pictures, then videos"
    assert calls["attention_mask"] == calls["text.layers.0.deepstack"] == [0]


def test_seams_stand_in_the_order_of_the_computation() -> None:
    names = [str(item.key) for item in expected_model_seams(SMALL, decode_steps=1, images=True, videos=True)]
    order = [
        "input_ids[0]", "text.position_ids[0]", "text.embed_tokens[0]", "vision.patch_embed[0]",
        "vision.blocks.0.norm1[0]", "vision.blocks.5.out[0]", "vision.merger[0]", "vision.patch_embed[1]",
        "vision.merger[1]", "text.inputs_embeds[0]", "text.causal_mask[0]", "text.layers.0.attn.q_norm[0]",
        "text.layers.0.attn.q_rope[0]", "text.layers.0.attn.k_cache[0]", "text.layers.0.attn.out[0]",
        "text.layers.0.out[0]", "text.layers.0.deepstack[0]", "text.layers.1.input_norm[0]",
        "text.layers.2.deepstack[0]", "text.layers.4.out[0]", "text.norm[0]", "logits[0]", "input_ids[1]",
        "text.position_ids[1]", "text.inputs_embeds[1]", "logits[1]",
    ]  # fmt: skip
    assert sorted(order, key=names.index) == order


def test_text_alone_expects_nothing_of_vision() -> None:
    names = {item.key.name for item in expected_model_seams(SMALL, decode_steps=1, images=False, videos=False)}
    assert not {name for name in names if name.startswith(("vision", "image", "video")) or "deepstack" in name}


def test_every_rows_key_is_one_that_the_labels_have() -> None:
    inputs = {
        "input_ids": np.array([[1, 692, 694, 693, 695]]),
        "attention_mask": np.ones((1, 5), dtype=np.int64),
        "image_grid_thw": np.array([[1, 2, 2]]),
        "video_grid_thw": np.array([[1, 2, 2]]),
    }
    labels = row_labels(inputs, CONFIG, decode_steps=2)
    used = {item.rows for item in expected_model_seams(SMALL, decode_steps=2, images=True, videos=True) if item.rows}
    assert used == set(labels)


def test_specs_have_distinct_names_and_known_axes() -> None:
    specs = model_specs()
    assert max(Counter(spec.name for spec in specs).values()) == 1
    for spec in specs:
        assert len(set(spec.layout)) == len(spec.layout), spec.name
        assert (spec.rows is None) or spec.token_axes, spec.name
    by_name = {spec.name: spec for spec in specs}
    assert by_name["text.causal_mask"].axis_names == ("batch", "token")
    assert by_name["text.layers.{}.attn.k_cache"].axis_names == ("batch", "key")
    assert by_name["vision.blocks.{}.attn.q_rope"].axis_names == ("patch",)


def test_positions_masks_and_counts_are_exact_and_activations_are_not() -> None:
    exact = {spec.name for spec in model_specs() if spec.gate == "exact"}
    assert exact == {
        "input_ids", "attention_mask", "image_pixels", "image_grid_thw", "image_mask", "video_pixels",
        "video_grid_thw", "video_mask", "text.position_ids", "rope_delta", "vision.cu_seqlens", "text.causal_mask",
    }  # fmt: skip


# -- labels ------------------------------------------------------------------------------------------------------


def test_labels_by_hand() -> None:
    inputs = {
        "input_ids": np.array([[694, 5, 692, 694, 694, 693, 8], [7, 692, 695, 693, 9, 690, 690]]),
        "attention_mask": np.array([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]]),
        "image_grid_thw": np.array([[1, 2, 4]]),
        "video_grid_thw": np.array([[1, 2, 2], [3, 4, 2]]),
    }
    labels = row_labels(inputs, CONFIG, decode_steps=2)
    prompt = [
        [
            PADDING,
            TokenKind.TEXT,
            TokenKind.BOUNDARY,
            TokenKind.IMAGE,
            TokenKind.IMAGE,
            TokenKind.BOUNDARY,
            TokenKind.TEXT,
        ],
        [TokenKind.TEXT, TokenKind.BOUNDARY, TokenKind.VIDEO, TokenKind.BOUNDARY, TokenKind.TEXT, PADDING, PADDING],
    ]
    assert labels[SeamKey("rows.tokens", 0)].tolist() == prompt
    assert labels[SeamKey("rows.tokens", 2)].tolist() == [[TokenKind.TEXT], [TokenKind.TEXT]]
    assert labels[SeamKey("rows.keys", 0)].tolist() == prompt
    assert labels[SeamKey("rows.keys", 2)].tolist() == [[*row, TokenKind.TEXT, TokenKind.TEXT] for row in prompt]
    assert labels[SeamKey("rows.images.patches", 0)].tolist() == [TokenKind.IMAGE] * 8
    assert labels[SeamKey("rows.images.merged", 0)].tolist() == [TokenKind.IMAGE] * 2
    assert labels[SeamKey("rows.videos.patches", 0)].tolist() == [TokenKind.VIDEO] * 28
    assert labels[SeamKey("rows.videos.merged", 0)].tolist() == [TokenKind.VIDEO] * 7
    assert {array.dtype for array in labels.values()} == {np.dtype(np.uint8)}
    assert PADDING not in KINDS


def test_text_alone_has_no_patch_labels() -> None:
    inputs = {"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1]])}
    assert set(row_labels(inputs, CONFIG, decode_steps=0)) == {label_key("tokens", 0), label_key("keys", 0)}


# -- the recorder ------------------------------------------------------------------------------------------------


def test_bfloat16_keeps_its_bits_and_the_copy_is_its_own() -> None:
    tensor = torch.tensor([1.0, -0.0, 3.140625, float("inf"), 1e38]).to(torch.bfloat16)
    array = to_numpy(tensor)
    assert array.dtype == ml_dtypes.bfloat16
    assert array.view(np.int16).tolist() == tensor.view(torch.int16).tolist()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.int64, torch.bool, torch.bfloat16):
        tensor = torch.ones(3, dtype=dtype)
        array = to_numpy(tensor)
        tensor.zero_()
        assert array.astype(np.float64).tolist() == [1, 1, 1]
    assert to_numpy(torch.arange(6).view(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]


def _spec(name: str) -> SeamSpec:
    return next(spec for spec in model_specs() if spec.name == name)


def test_pieces_are_joined_along_their_tokens() -> None:
    q = _spec("text.layers.{}.attn.q_rope")
    pieces = [np.full((2, tokens, 3, 4), float(tokens)) for tokens in (2, 1)]
    assert join(pieces, q)[0, :, 0, 0].tolist() == [2, 2, 1]
    positions = [np.arange(6).reshape(3, 1, 2), np.arange(3).reshape(3, 1, 1)]
    assert join(positions, POSITIONS).shape == (3, 1, 3)
    assert join(positions, POSITIONS)[1, 0].tolist() == [2, 3, 1]


def test_of_a_cache_the_last_piece_counts() -> None:
    cache = _spec("text.layers.{}.attn.v_cache")
    pieces = [np.ones((1, 2, tokens, 4)) * tokens for tokens in (2, 3)]
    assert join(pieces, cache) is pieces[1]


def test_masks_of_chunks_are_widened_with_keys_not_yet_there() -> None:
    mask = _spec("text.causal_mask")
    whole = np.tril(np.ones((5, 5), dtype=bool))[None, None]
    pieces = [whole[:, :, :2, :2], whole[:, :, 2:4, :4], whole[:, :, 4:, :]]
    joined = join(pieces, mask)
    assert joined.dtype == bool
    assert np.array_equal(joined, whole)


def test_chunks_are_one_reading_and_decode_steps_are_their_own() -> None:
    got: list[tuple[SeamKey, list[float]]] = []
    expected = expected_model_seams(SMALL, decode_steps=2, images=False, videos=False)
    recorder = Recorder(expected, lambda key, array: got.append((key, array.reshape(-1).tolist())), chunks=3)
    recorder("input_ids", torch.ones(1, 3))  # once, whatever the chunks
    for value in (1.0, 2.0, 3.0):
        recorder("text.norm", torch.full((1, 1, 1), value))
    recorder("text.norm", torch.full((1, 1, 1), 4.0))
    recorder("input_ids", torch.zeros(1, 1))
    recorder("text.norm", torch.full((1, 1, 1), 5.0))
    assert got == [
        (SeamKey("input_ids", 0), [1, 1, 1]),
        (SeamKey("text.norm", 0), [1, 2, 3]),
        (SeamKey("text.norm", 1), [4]),
        (SeamKey("input_ids", 1), [0]),
        (SeamKey("text.norm", 2), [5]),
    ]


def test_a_chunk_too_few_gives_no_reading() -> None:
    got: list[SeamKey] = []
    expected = expected_model_seams(SMALL, decode_steps=0, images=False, videos=False)
    recorder = Recorder(expected, lambda key, _array: got.append(key), chunks=2)
    recorder("text.norm", torch.ones(1, 1, 1))
    assert got == []


def test_unknown_names_go_through_so_that_they_can_be_judged() -> None:
    got: list[SeamKey] = []
    recorder = Recorder([], lambda key, _array: got.append(key), chunks=2)
    recorder("nobody.knows", torch.ones(1))
    recorder("nobody.knows", torch.ones(1))
    assert got == [SeamKey("nobody.knows", 0), SeamKey("nobody.knows", 1)]


def test_both_get_every_reading() -> None:
    one: list[SeamKey] = []
    other: list[SeamKey] = []
    sink = both(lambda key, _array: one.append(key), lambda key, _array: other.append(key))
    sink(SeamKey("x", 0), np.ones(1))
    assert one == other == [SeamKey("x", 0)]


# -- the port's taps against the list ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Iterator[Qwen3VL]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Qwen3VL(Qwen3VLConfig.from_dict(json.loads(json.dumps(CONFIG))))
    state = {
        name: torch.from_numpy(tensor_values(name, tuple(parameter.shape), seed=1, tied=False)).double()
        for name, parameter in made.named_parameters()
    }
    made.load_state_dict(state, assign=True)
    yield made.eval().requires_grad_(False)
    torch.set_num_threads(threads)


def _inputs() -> Inputs:
    """Row 0 has an image and a video, row 1 is shorter text."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[4, 692, 694, 694, 693, 7, 692, 695, 693, 9, 2], [690] * 7 + [8, 3, 5, 1]])
    return Inputs(
        ids,
        (ids != 690).long(),
        torch.rand(8, 1536, generator=generator, dtype=torch.float64),
        torch.tensor([[1, 2, 4]]),
        torch.rand(4, 1536, generator=generator, dtype=torch.float64),
        torch.tensor([[1, 2, 2]]),
    )


def _readings(model: Qwen3VL, inputs: Inputs, chunk: int | None) -> dict[SeamKey, np.ndarray]:
    tokens = inputs.input_ids.shape[1]
    expected = expected_model_seams(SMALL, decode_steps=2, images=True, videos=True)
    got: dict[SeamKey, np.ndarray] = {}
    recorder = Recorder(expected, got.__setitem__, chunks=1 if chunk is None else -(-tokens // chunk))

    def listen(name: str, tensor: Tensor) -> Tensor:
        recorder(name, tensor)
        return tensor

    with listening(listen):
        cache = model.new_cache(2, tokens + 2)
        model.prefill(inputs, cache, chunk=chunk)
        for token in ([[11], [12]], [[13], [14]]):
            model.decode(torch.tensor(token), cache)
    return got


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 11])
def test_the_port_gives_every_expected_seam_and_no_other(model: Qwen3VL, chunk: int | None) -> None:
    expected = expected_model_seams(SMALL, decode_steps=2, images=True, videos=True)
    got = _readings(model, _inputs(), chunk)
    wanted = {item.key: item for item in expected}
    assert got.keys() == wanted.keys()
    labels = row_labels(
        {
            "input_ids": _inputs().input_ids.numpy(),
            "attention_mask": _inputs().attention_mask.numpy(),
            "image_grid_thw": np.array([[1, 2, 4]]),
            "video_grid_thw": np.array([[1, 2, 2]]),
        },
        CONFIG,
        decode_steps=2,
    )
    for key, array in got.items():
        spec, rows = wanted[key].spec, wanted[key].rows
        assert array.ndim == len(spec.layout), key
        if rows is not None:
            assert tuple(array.shape[axis] for axis in spec.token_axes) == labels[rows].shape, key


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_a_chunked_prefill_gives_the_readings_of_a_whole_one(model: Qwen3VL, chunk: int) -> None:
    whole, chunked = _readings(model, _inputs(), None), _readings(model, _inputs(), chunk)
    for key, array in whole.items():
        assert chunked[key].shape == array.shape, key
        assert np.allclose(chunked[key], array, rtol=0, atol=1e-9), key
