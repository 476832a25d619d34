"""Properties of every correct Qwen3-VL: batching, padding, chunking and caching do not change the logits.

All tests use float64. Two correct computations only differ by rounding (1e-15 relative per step), so 1e-9 on logits of
standard deviation 2 is far above the noise and far below any mistake.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from port import InputError, Inputs, Qwen3VL, listening
from tests.port.port_samples import (
    CLIP,
    IMAGE,
    ROWS,
    TALL,
    VIDEO,
    WIDE,
    Part,
    Picture,
    batch,
    make_model,
    real,
    text,
    tokens_of,
)

TOLERANCE = 1e-9
NAMES = list(ROWS)


def _alone(model: Qwen3VL, row: list[Part]) -> Tensor:
    """(tokens, V) of one prompt without padding or cache."""
    return model(batch([row]))[0]


def _far(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return float((left - right).abs().max())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("names", [*itertools.permutations(NAMES, 2), tuple(NAMES), tuple(reversed(NAMES))])
def test_a_row_of_a_batch_is_that_row_alone(model: Qwen3VL, names: tuple[str, ...], side: str) -> None:
    inputs = batch([ROWS[name] for name in names], side=side, extra=1)
    logits = model(inputs)
    for index, name in enumerate(names):
        assert _far(real(logits, inputs, index), _alone(model, ROWS[name])) < TOLERANCE, name


def test_the_rows_of_the_tests_differ(model: Qwen3VL) -> None:
    # Or the test above would pass with rows mixed up.
    last = [_alone(model, ROWS[name])[-1] for name in NAMES]
    assert min(_far(a, b) for a, b in itertools.combinations(last, 2)) > 1


def test_text_alone_is_the_same_beside_pictures_and_without_them(model: Qwen3VL) -> None:
    row = ROWS["text"]
    texts = batch([row, text(20, 30)])
    pictures = batch([row, ROWS["mixed"], ROWS["pictures"]])
    expected = _alone(model, row)
    assert _far(real(model(texts), texts, 0), expected) < TOLERANCE
    assert _far(real(model(pictures), pictures, 0), expected) < TOLERANCE


@pytest.mark.parametrize("pad_id", [0, 5, 700, IMAGE, VIDEO])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_under_the_padding_has_no_influence(model: Qwen3VL, side: str, pad_id: int) -> None:
    rows = [ROWS["text"], ROWS["mixed"], ROWS["picture"]]
    one, other = (batch(rows, side=side, pad_id=pad, extra=2) for pad in (690, pad_id))
    left, right = model(one), model(other)
    for row in range(3):
        assert torch.equal(real(left, one, row), real(right, other, row))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_cached_decoding_is_a_full_forward(model: Qwen3VL, side: str, chunk: int | None) -> None:
    rows = [ROWS[name] for name in NAMES]
    inputs = batch(rows, side=side, extra=1)
    following = [text(30 + index, 5) for index in range(len(rows))]
    cache = model.new_cache(len(rows), inputs.input_ids.shape[1] + 5)
    prefill = model.prefill(inputs, cache, chunk=chunk)
    fed = torch.tensor(following)
    # Two tokens at once, then one by one.
    steps = [model.decode(fed[:, at], cache) for at in (slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5))]
    decoded = torch.cat(steps, dim=1)
    assert cache.length == cache.capacity
    for index, row in enumerate(rows):
        whole = _alone(model, [*row, *following[index]])
        assert _far(real(prefill, inputs, index), whole[:-5]) < TOLERANCE
        assert _far(decoded[index], whole[-5:]) < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_split_of_a_prefill_gives_the_whole(model: Qwen3VL, side: str) -> None:
    inputs = batch([ROWS["pictures"], ROWS["text"]], side=side)
    total = inputs.input_ids.shape[1]
    expected = model(inputs)
    last = text(40, 2)
    decoded = None
    for chunk in [None, *range(1, total + 2)]:
        cache = model.new_cache(2, total + 1)
        logits = model.prefill(inputs, cache, chunk=chunk)
        assert cache.length == total
        for row in range(2):
            assert _far(real(logits, inputs, row), real(expected, inputs, row)) < TOLERANCE, chunk
        following = model.decode(torch.tensor(last).unsqueeze(1), cache)
        decoded = following if decoded is None else decoded
        assert _far(following, decoded) < TOLERANCE, chunk


def test_two_requests_at_once_do_not_see_each_other(model: Qwen3VL) -> None:
    requests = [batch([ROWS["mixed"]]), batch([ROWS["text"]])]
    caches = [model.new_cache(1, 99) for _ in requests]
    for inputs, cache in zip(requests, caches, strict=True):
        model.prefill(inputs, cache)
    for name, cache in zip(("mixed", "text"), caches, strict=True):
        decoded = model.decode(torch.tensor([[77]]), cache)
        assert _far(decoded[0], _alone(model, [*ROWS[name], 77])[-1:]) < TOLERANCE


def test_later_tokens_do_not_change_earlier_logits(model: Qwen3VL) -> None:
    row = ROWS["picture"]
    longer = [*row, *text(50, 3), TALL]
    assert _far(_alone(model, longer)[: len(tokens_of(row))], _alone(model, row)) < TOLERANCE


def test_the_order_of_pictures_matters(model: Qwen3VL) -> None:
    # Same grids, same tokens: only which pixels come first differs.
    first, second = (Picture((1, 4, 4), seed=seed) for seed in (60, 61))
    words = text(62, 3)
    one, other = _alone(model, [*words, first, second, 5]), _alone(model, [*words, second, first, 5])
    assert _far(one[:4], other[:4]) < TOLERANCE, "before the pictures nothing changes"
    assert _far(one[4:8], other[4:8]) > 0.1
    assert _far(one[-1:], other[-1:]) > 0.1


def test_rows_may_come_in_any_order(model: Qwen3VL) -> None:
    rows = [ROWS[name] for name in NAMES]
    expected = model(batch(rows))
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        shuffled = model(batch([rows[index] for index in order]))
        for at, index in enumerate(order):
            assert _far(shuffled[at], expected[index]) < TOLERANCE


def test_pixels_reach_their_own_row_only(model: Qwen3VL) -> None:
    rows: list[list[Part]] = [[1, WIDE, 2], [3, TALL, 4], [5, 6]]
    inputs = batch(rows)
    assert inputs.pixel_values is not None
    changed = inputs.pixel_values.clone()
    changed[-1] += 1  # the last patch of row 1's picture
    before, after = model(inputs), model(replace(inputs, pixel_values=changed))
    moved = [_far(before[row], after[row]) > 1e-3 for row in range(3)]
    assert moved == [False, True, False]


def test_a_video_of_one_frame_is_the_image_after_its_timestamp(model: Qwen3VL) -> None:
    image, video = Picture((1, 4, 4), seed=70), Picture((1, 4, 4), seed=70, video=True)
    timestamp = tokens_of([video])[0]
    assert _far(_alone(model, [timestamp, image, 5]), _alone(model, [video, 5])) < TOLERANCE


def test_images_and_videos_of_one_row_get_their_own_pixels(model: Qwen3VL) -> None:
    before = batch([[CLIP, TALL, 5]])
    after = batch([[replace(CLIP, seed=80), TALL, 5]])
    left, right = model(before)[0], model(after)[0]
    assert _far(left[:2], right[:2]) < TOLERANCE
    assert _far(left[2], right[2]) > 0.1, "the first video token"
    assert _far(model.embed(before).inputs_embeds[0, -5:], model.embed(after).inputs_embeds[0, -5:]) < TOLERANCE


def test_deepstack_is_added_at_picture_tokens_of_the_first_layers_only(model: Qwen3VL) -> None:
    inputs = batch([ROWS["mixed"], ROWS["text"]])
    embedded = model.embed(inputs)
    assert len(embedded.deepstack) == 3
    pictures = ((inputs.input_ids == IMAGE) | (inputs.input_ids == VIDEO)) & inputs.attention_mask.bool()
    for feature in embedded.deepstack:
        assert (feature.abs().amax(dim=-1) > 0).equal(pictures)
    assert model.embed(batch([ROWS["text"]])).deepstack == []


def test_each_deepstack_feature_is_added_after_its_own_layer(model: Qwen3VL) -> None:
    inputs = batch([ROWS["mixed"], ROWS["text"]])
    features = model.embed(inputs).deepstack
    seen: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> Tensor:
        seen[name] = tensor
        return tensor

    with listening(keep):
        model(inputs)
    assert [name for name in seen if name.endswith(".deepstack")] == [f"text.layers.{i}.deepstack" for i in range(3)]
    for layer, feature in enumerate(features):
        assert torch.equal(seen[f"text.layers.{layer}.deepstack"], seen[f"text.layers.{layer}.out"] + feature)
    norm: Any = model.model.language_model.layers[3].input_layernorm
    assert torch.equal(seen["text.layers.3.input_norm"], norm(seen["text.layers.2.deepstack"]))


def test_tied_models_have_no_lm_head_and_read_the_embeddings(model: Qwen3VL, tied_model: Qwen3VL) -> None:
    names = dict(tied_model.named_parameters())
    assert "lm_head.weight" not in names
    assert "lm_head.weight" in dict(model.named_parameters())
    table = tied_model.model.language_model.embed_tokens.weight
    assert tied_model.output_weight() is table
    hidden = torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(tied_model.logits(hidden), hidden @ table.T)
    assert model.output_weight() is model.lm_head.weight


def test_a_tied_model_keeps_the_promises_too(tied_model: Qwen3VL) -> None:
    rows = [ROWS["mixed"], ROWS["text"]]
    inputs = batch(rows)
    cache = tied_model.new_cache(2, 99)
    tied_model.prefill(inputs, cache, chunk=5)
    decoded = tied_model.decode(torch.tensor([[8], [9]]), cache)
    for index, following in enumerate((8, 9)):
        assert _far(decoded[index], _alone(tied_model, [*rows[index], following])[-1:]) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes_run_and_stay_near(model: Qwen3VL, dtype: torch.dtype) -> None:
    inputs = batch([ROWS["mixed"], ROWS["text"]])
    logits = make_model(dtype=dtype)(inputs)
    assert logits.dtype == dtype
    scale = model(inputs).norm()
    # Rounding of the weights alone is 2^-9, 2^-12 and 2^-25; eleven blocks and layers multiply it.
    limit = {torch.bfloat16: 0.2, torch.float16: 0.03, torch.float32: 1e-5}[dtype]
    assert (logits.double() - model(inputs)).norm() / scale < limit


# -- what a caller can get wrong ---------------------------------------------------------------------------------


def _refused(model: Qwen3VL, inputs: Inputs, *words: str) -> None:
    for run in (model, lambda given: model.prefill(given, model.new_cache(len(given.input_ids), 999))):
        with pytest.raises(InputError) as caught:
            run(inputs)
        assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("wrong", "shown"), [(701, "to 701"), (-1, "from -1"), (2**40, str(2**40))])
def test_ids_outside_the_vocabulary_are_refused(model: Qwen3VL, wrong: int, shown: str) -> None:
    inputs = batch([[1, 2, 700]])
    model(inputs)
    ids = inputs.input_ids.clone()
    ids[0, 1] = wrong
    _refused(model, replace(inputs, input_ids=ids), shown, "0 to 700")
    cache = model.new_cache(1, 9)
    model.prefill(inputs, cache)
    with pytest.raises(InputError, match="0 to 700"):
        model.decode(torch.tensor([[wrong]]), cache)
    assert cache.length == 3, "a refused token is not in the cache"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_refused(model: Qwen3VL, bad: float) -> None:
    inputs = batch([ROWS["mixed"]])
    assert inputs.pixel_values is not None
    assert inputs.pixel_values_videos is not None
    for name in ("pixel_values", "pixel_values_videos"):
        pixels = getattr(inputs, name).clone()
        pixels[-1, 7] = bad
        _refused(model, replace(inputs, **{name: pixels}), name, "NaN or Inf")


def test_pixel_rows_that_do_not_fit_are_refused(model: Qwen3VL) -> None:
    inputs = batch([[WIDE, 3]])
    assert inputs.pixel_values is not None
    _refused(model, replace(inputs, pixel_values=inputs.pixel_values[:-1]), "(31, 1536)", "(32, 1536)")


@pytest.mark.parametrize("value", [2, -1])
def test_masks_hold_zero_and_one_only(model: Qwen3VL, value: int) -> None:
    inputs = batch([[1, 2, 3]])
    mask = inputs.attention_mask.clone()
    mask[0, 0] = value
    _refused(model, replace(inputs, attention_mask=mask), str(value), "0 (padding) and 1")


def test_rows_of_padding_only_are_refused_by_number(model: Qwen3VL) -> None:
    inputs = batch([[1, 2], [3, 4], [5, 6]])
    mask = inputs.attention_mask.clone()
    mask[1] = 0
    _refused(model, replace(inputs, attention_mask=mask), "rows [1]", "all padding")


@pytest.mark.parametrize("ids", [torch.zeros(3, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long)])
def test_ids_that_are_no_batch_are_refused(model: Qwen3VL, ids: Tensor) -> None:
    with pytest.raises(InputError, match="batch, tokens"):
        model(Inputs(ids, torch.ones_like(ids)))


def test_mask_and_ids_of_different_shapes_are_refused(model: Qwen3VL) -> None:
    inputs = batch([[1, 2, 3]])
    _refused(model, replace(inputs, attention_mask=inputs.attention_mask[:, 1:]), "(1, 3)", "(1, 2)")


def test_pixels_and_grids_come_together(model: Qwen3VL) -> None:
    inputs = batch([ROWS["mixed"]])
    _refused(model, replace(inputs, image_grid_thw=None), "pixel_values and image_grid_thw must be given together")
    _refused(
        model,
        replace(inputs, pixel_values_videos=None),
        "pixel_values_videos and video_grid_thw must be given together",
    )


def test_tokens_and_features_that_differ_are_refused_with_both_numbers(model: Qwen3VL) -> None:
    inputs = batch([[1, WIDE, 2]])
    ids = inputs.input_ids.clone()
    ids[0, 2] = 9
    _refused(model, replace(inputs, input_ids=ids), "7 image tokens", "8 features")
    _refused(model, replace(batch([[1, CLIP]]), pixel_values_videos=None, video_grid_thw=None), "6 video", "0 features")


def test_as_many_tokens_in_the_wrong_rows_are_refused(model: Qwen3VL) -> None:
    # The totals agree, the runs do not.
    inputs = batch([[1, Picture((1, 2, 4), seed=1)], [1, Picture((1, 2, 4), seed=2)]])
    ids = torch.tensor([[1, 692, IMAGE, IMAGE, IMAGE], [1, 692, IMAGE, 5, 693]])
    _refused(model, replace(inputs, input_ids=ids), "row 0 has 1 image tokens", "image_grid_thw[1] needs 2 (1 x 2")


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_has_at_least_one_token(model: Qwen3VL, chunk: int) -> None:
    with pytest.raises(InputError, match=f"chunk is {chunk}"):
        model.prefill(batch([[1, 2]]), model.new_cache(1, 5), chunk=chunk)


def test_a_used_cache_takes_no_prefill_and_an_empty_one_no_decode(model: Qwen3VL) -> None:
    cache = model.new_cache(1, 9)
    with pytest.raises(InputError, match="this one is empty"):
        model.decode(torch.tensor([[1]]), cache)
    model.prefill(batch([[1, 2]]), cache)
    with pytest.raises(InputError, match="this one holds 2 tokens"):
        model.prefill(batch([[1, 2]]), cache)


def test_a_cache_too_small_is_refused(model: Qwen3VL) -> None:
    inputs = batch([[1, 2, 3]])
    with pytest.raises(InputError, match="larger capacity"):
        model.prefill(inputs, model.new_cache(1, 2))
    cache = model.new_cache(1, 3)
    model.prefill(inputs, cache)
    with pytest.raises(InputError, match="larger capacity"):
        model.decode(torch.tensor([[1]]), cache)


@pytest.mark.parametrize("ids", [torch.tensor([4]), torch.zeros(1, 0, dtype=torch.long), torch.tensor([[4], [5]])])
def test_decode_takes_one_row_for_each_of_the_cache(model: Qwen3VL, ids: Tensor) -> None:
    cache = model.new_cache(1, 9)
    model.prefill(batch([[1, 2, 3]]), cache)
    with pytest.raises(InputError):
        model.decode(ids, cache)
    assert cache.length == 3
