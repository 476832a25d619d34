"""Relations that a correct port keeps whatever its weights, without any reference.

A `Spec` is everything: a config, weights by seed, and a batch. It is plain JSON, so that a failure is a command:
``parity metamorphic RELATION --spec '{...}'``. All runs are float64, where a correct port keeps every relation to
1e-12, and a bug has nowhere to hide.

Shape legend
    B, S   batch, tokens;  N   patches;  m   spatial merge;  P   patch size
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from port import Inputs, Qwen3VL, Qwen3VLConfig
from port.grid import merge_order

# Float64 noise of these small models is 1e-14 to 1e-13 per row.
AGREEMENT = 1e-10
IMAGE, VIDEO, START, END, FIRST_WORD = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Picture:
    """A grid after merging: frames, rows, columns. More than one frame makes it a video."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class Spec:
    """One example. ``rows`` are lists of words (token ids) and pictures; ``cut`` is where relations split things."""

    seed: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    tied: bool
    rows: Sequence[Sequence[int | Picture]]
    side: Literal["left", "right"] = "left"
    cut: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Raises ValueError, KeyError or TypeError for anything but what ``to_json`` gives."""
        raw = json.loads(text)
        rows = [[Picture(**part) if isinstance(part, dict) else part for part in row] for row in raw.pop("rows")]
        return cls(**raw, rows=rows)


def build(spec: Spec) -> Qwen3VL:
    """The port with seeded weights that keep every part alive."""
    config = Qwen3VLConfig.from_dict(
        {
            "model_type": "qwen3_vl",
            "tie_word_embeddings": spec.tied,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": START,
            "vision_end_token_id": END,
            "text_config": {"hidden_act": "silu", "attention_bias": False, "rms_norm_eps": 1e-6, **spec.text},
            "vision_config": {
                "hidden_act": "gelu_pytorch_tanh",
                "out_hidden_size": spec.text["hidden_size"],
                **spec.vision,
            },
        },
        where="spec",
    )
    generator = torch.Generator().manual_seed(spec.seed)
    model = Qwen3VL(config).double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim == 1:
            parameter.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        else:
            parameter.copy_(noise * 1.2 / parameter.shape[-1] ** 0.5)
    return model


def batch(spec: Spec, model: Qwen3VL, rows: Sequence[Sequence[int | Picture]], *, padding: int = END) -> Inputs:
    """Rows to one padded batch. A picture's pixels depend on the seed and its own place in ``spec.rows`` alone."""
    merge = model.config.vision.spatial_merge_size
    ids = [[token for part in row for token in _tokens(part)] for row in rows]
    longest = max(map(len, ids))
    input_ids = torch.full((len(ids), longest), padding)
    mask = torch.zeros(len(ids), longest, dtype=torch.long)
    for index, tokens in enumerate(ids):
        place = slice(longest - len(tokens), longest) if spec.side == "left" else slice(0, len(tokens))
        input_ids[index, place] = torch.tensor(tokens)
        mask[index, place] = 1
    media: dict[str, Tensor] = {}
    kinds = [(False, "pixel_values", "image_grid_thw"), (True, "pixel_values_videos", "video_grid_thw")]
    for moving, pixels, grids in kinds:
        pictures = [part for row in rows for part in row if isinstance(part, Picture) and (part.t > 1) is moving]
        if pictures:
            media[grids] = torch.tensor([[p.t, p.h * merge, p.w * merge] for p in pictures])
            media[pixels] = torch.cat([_pixels(picture, model) for picture in pictures])
    return Inputs(input_ids, mask, **media)


def _tokens(part: int | Picture) -> list[int]:
    if not isinstance(part, Picture):
        return [part]
    token = VIDEO if part.t > 1 else IMAGE
    return [token_id for _ in range(part.t) for token_id in (START, *[token] * (part.h * part.w), END)]


def _pixels(picture: Picture, model: Qwen3VL) -> Tensor:
    """(N, channels*T*P*P) in [-1, 1], the same for the same grid."""
    vision = model.config.vision
    count = picture.t * picture.h * picture.w * vision.spatial_merge_size**2
    generator = torch.Generator().manual_seed(picture.t * 10007 + picture.h * 101 + picture.w)
    return torch.rand(count, vision.patch_dim, generator=generator, dtype=torch.float64) * 2 - 1


def decode_is_forward(spec: Spec) -> float:
    """Prefill and cached decoding of further words give what one full forward gives. Worst row error."""
    model = build(spec)
    inputs = batch(spec, model, spec.rows)
    words = torch.arange(FIRST_WORD, FIRST_WORD + 3).repeat(len(spec.rows), 1)  # (B, 3)
    cache = model.new_cache(len(words), inputs.input_ids.shape[1] + 3)
    model.prefill(inputs, cache)
    stepwise = torch.cat([model.decode(words[:, step : step + 1], cache) for step in range(3)], dim=1)
    worst = 0.0
    for index, row in enumerate(spec.rows):
        whole = model(batch(spec, model, [[*row, *words[index].tolist()]]))
        worst = max(worst, _worst(stepwise[index], whole[0, -3:]))
    return worst


def chunks_are_whole(spec: Spec) -> float:
    """A prefill in chunks of ``cut`` gives the logits of a whole one."""
    model = build(spec)
    inputs = batch(spec, model, spec.rows)
    size = inputs.input_ids.shape
    whole = model.prefill(inputs, model.new_cache(*size))
    chunked = model.prefill(inputs, model.new_cache(*size), chunk=spec.cut)
    real = inputs.attention_mask.bool()
    return _worst(chunked[real], whole[real])


def rows_are_alone(spec: Spec) -> float:
    """Every row of a batch gives what it gives alone, whatever its neighbours and the padding side."""
    model = build(spec)
    inputs = batch(spec, model, spec.rows)
    together = model(inputs)
    worst = 0.0
    for index, row in enumerate(spec.rows):
        alone = model(batch(spec, model, [row]))[0]
        worst = max(worst, _worst(together[index][inputs.attention_mask[index].bool()], alone))
    return worst


def rows_can_trade_places(spec: Spec) -> float:
    """The batch with its rows rotated by ``cut`` gives its logits rotated."""
    model = build(spec)
    shift = spec.cut % len(spec.rows)
    turned = [*spec.rows[shift:], *spec.rows[:shift]]
    first, second = batch(spec, model, spec.rows), batch(spec, model, turned)
    real = first.attention_mask.bool()
    return _worst(model(second).roll(shift, dims=0)[real], model(first)[real])


def pictures_are_alone(spec: Spec) -> float:
    """The tower gives each picture's features whatever pictures come before and after it."""
    model = build(spec)
    pictures = [part for row in spec.rows for part in row if isinstance(part, Picture)]
    if not pictures:
        return 0.0
    alone = [_features(model, [picture]) for picture in pictures]
    together = _features(model, pictures)
    backwards = _features(model, pictures[::-1])
    return max(_worst(together, torch.cat(alone, dim=1)), _worst(backwards, torch.cat(alone[::-1], dim=1)))


def padding_is_unseen(spec: Spec) -> float:
    """What token stands under the padding changes nothing."""
    model = build(spec)
    first = batch(spec, model, spec.rows, padding=END)
    second = batch(spec, model, spec.rows, padding=IMAGE)
    real = first.attention_mask.bool()
    return _worst(model(second)[real], model(first)[real])


def transposed_picture(spec: Spec) -> float:
    """A picture turned over its diagonal, under weights turned likewise, gives the turned features."""
    model = build(spec)
    pictures = [part for row in spec.rows for part in row if isinstance(part, Picture)]
    if not pictures:
        return 0.0
    picture = pictures[0]
    features = _features(model, [picture])  # (towers, F, O)
    grid = (picture.t, picture.h, picture.w)
    turned_grid = Picture(picture.t, picture.w, picture.h)
    pixels = _turn_pixels(_pixels(picture, model), picture, model)
    _turn_tower(model)
    turned = _features(model, [turned_grid], pixels)
    wanted = features.unflatten(1, grid).transpose(2, 3).flatten(1, 3)
    return _worst(turned, wanted)


def _features(model: Qwen3VL, pictures: Sequence[Picture], pixels: Tensor | None = None) -> Tensor:
    """(1 + taps, F, O): the merged features and those of every DeepStack tap."""
    merge = model.config.vision.spatial_merge_size
    grid = torch.tensor([[p.t, p.h * merge, p.w * merge] for p in pictures])
    given = torch.cat([_pixels(picture, model) for picture in pictures]) if pixels is None else pixels
    merged, taps = model.model.visual(given, grid)
    return torch.stack([merged, *taps])


def _turn_pixels(pixels: Tensor, picture: Picture, model: Qwen3VL) -> Tensor:
    """Patches (N, ...) of a picture to those of its transpose, each patch transposed too, both in merge order."""
    vision = model.config.vision
    rows, columns = picture.h * vision.spatial_merge_size, picture.w * vision.spatial_merge_size
    at_row, at_column = merge_order(rows, columns, vision.spatial_merge_size)
    shape = (picture.t, rows * columns, -1, vision.patch_size, vision.patch_size)
    patches = pixels.reshape(shape).transpose(3, 4)  # (t, h*w, channels*T, P, P)
    raster = torch.empty_like(patches)
    raster[:, at_row * columns + at_column] = patches
    turned = raster.unflatten(1, (rows, columns)).transpose(1, 2).flatten(1, 2)
    to_row, to_column = merge_order(columns, rows, vision.spatial_merge_size)
    return turned[:, to_row * rows + to_column].reshape(len(pixels), -1)


def _turn_tower(model: Qwen3VL) -> None:
    """Exchange rows and columns in everything in the tower that knows them."""
    vision, visual = model.config.vision, model.model.visual
    block: Any  # nn.ModuleList does not say what it holds
    proj = visual.patch_embed.proj
    proj.matrix.copy_(proj.weight().transpose(3, 4).reshape_as(proj.matrix))
    side = vision.grid_side
    table = visual.pos_embed.weight
    table.copy_(table.unflatten(0, (side, side)).transpose(0, 1).flatten(0, 1))
    for block in visual.blocks:
        for tensor in (block.attn.qkv.weight, block.attn.qkv.bias):
            qkv = tensor.unflatten(0, (3, vision.num_heads, 2, 2, -1))  # 3, heads, halves, (row, column), frequency
            qkv[:2] = qkv[:2].flip(3)
    for merger in (visual.merger, *visual.deepstack_merger_list):
        _turn_last(merger.linear_fc1.weight, vision.spatial_merge_size)
        if merger.norm_after_merge:
            _turn_last(merger.norm.weight, vision.spatial_merge_size)
            _turn_last(merger.norm.bias, vision.spatial_merge_size)


def _turn_last(tensor: Tensor, merge: int) -> None:
    """Transpose the m x m patches in the last dim of a merger's tensor, in place."""
    tensor.copy_(tensor.unflatten(-1, (merge, merge, -1)).transpose(-3, -2).flatten(-3).clone())


RELATIONS: dict[str, Callable[[Spec], float]] = {
    "decode-is-forward": decode_is_forward,
    "chunks-are-whole": chunks_are_whole,
    "rows-are-alone": rows_are_alone,
    "rows-can-trade-places": rows_can_trade_places,
    "pictures-are-alone": pictures_are_alone,
    "padding-is-unseen": padding_is_unseen,
    "transposed-picture": transposed_picture,
}


def command(relation: str, spec: Spec) -> str:
    """The command that runs one example again."""
    return f"parity metamorphic {relation} --spec '{spec.to_json()}'"


def _worst(found: Tensor, wanted: Tensor) -> float:
    """Largest relative error of a row (last dim)."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())
