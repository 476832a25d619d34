"""Relations that a correct port keeps with any weights. They need no reference.

A failing test prints a command that runs the example again, ``parity metamorphic RELATION --spec '{...}'``. All runs
are float64, in which a correct port keeps every relation to 1e-12.

Shape legend
    B, S   batch, tokens
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from parity.core.verdict import Verdict
from parity.relations.spec import END_ID, FIRST_WORD, IMAGE_ID, Picture, Spec, batch, build, pixels_of
from parity.relations.tower import tower_features, turn_pixels, turn_tower

# The float64 noise of these small models is 1e-14 to 1e-13 per row.
AGREEMENT = 1e-10


def decode_is_forward(spec: Spec) -> float:
    """Prefill and cached decoding give the same logits as one full forward. Returns the worst row error."""
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
    """A prefill in chunks of ``cut`` gives the same logits as a prefill at once."""
    model = build(spec)
    inputs = batch(spec, model, spec.rows)
    size = inputs.input_ids.shape
    whole = model.prefill(inputs, model.new_cache(*size))
    chunked = model.prefill(inputs, model.new_cache(*size), chunk=spec.cut)
    real = inputs.attention_mask.bool()
    return _worst(chunked[real], whole[real])


def rows_are_alone(spec: Spec) -> float:
    """A row of a batch gives the same logits as alone, with any other rows and any padding side."""
    model = build(spec)
    inputs = batch(spec, model, spec.rows)
    together = model(inputs)
    worst = 0.0
    for index, row in enumerate(spec.rows):
        alone = model(batch(spec, model, [row]))[0]
        worst = max(worst, _worst(together[index][inputs.attention_mask[index].bool()], alone))
    return worst


def rows_can_trade_places(spec: Spec) -> float:
    """If the rows of a batch are rotated by ``cut``, its logits are rotated too."""
    model = build(spec)
    shift = spec.cut % len(spec.rows)
    turned = [*spec.rows[shift:], *spec.rows[:shift]]
    first, second = batch(spec, model, spec.rows), batch(spec, model, turned)
    real = first.attention_mask.bool()
    return _worst(model(second).roll(shift, dims=0)[real], model(first)[real])


def pictures_are_alone(spec: Spec) -> float:
    """The features of a picture do not depend on the pictures before and after it."""
    model = build(spec)
    pictures = [part for row in spec.rows for part in row if isinstance(part, Picture)]
    if not pictures:
        return 0.0
    alone = [tower_features(model, [picture]) for picture in pictures]
    together = tower_features(model, pictures)
    backwards = tower_features(model, pictures[::-1])
    return max(_worst(together, torch.cat(alone, dim=1)), _worst(backwards, torch.cat(alone[::-1], dim=1)))


def padding_is_unseen(spec: Spec) -> float:
    """The logits do not depend on the token ids at padding."""
    model = build(spec)
    first = batch(spec, model, spec.rows, padding=END_ID)
    second = batch(spec, model, spec.rows, padding=IMAGE_ID)
    real = first.attention_mask.bool()
    return _worst(model(second)[real], model(first)[real])


def transposed_picture(spec: Spec) -> float:
    """A transposed picture with transposed weights gives the transposed features."""
    model = build(spec)
    pictures = [part for row in spec.rows for part in row if isinstance(part, Picture)]
    if not pictures:
        return 0.0
    picture = pictures[0]
    features = tower_features(model, [picture])  # (towers, F, O)
    grid = (picture.t, picture.h, picture.w)
    turned_grid = Picture(picture.t, picture.w, picture.h)
    pixels = turn_pixels(pixels_of(picture, model), picture, model)
    turn_tower(model)
    turned = tower_features(model, [turned_grid], pixels)
    wanted = features.unflatten(1, grid).transpose(2, 3).flatten(1, 3)
    return _worst(turned, wanted)


RELATIONS: dict[str, Callable[[Spec], float]] = {
    "decode-is-forward": decode_is_forward,
    "chunks-are-whole": chunks_are_whole,
    "rows-are-alone": rows_are_alone,
    "rows-can-trade-places": rows_can_trade_places,
    "pictures-are-alone": pictures_are_alone,
    "padding-is-unseen": padding_is_unseen,
    "transposed-picture": transposed_picture,
}


def check(relation: str, spec: Spec) -> tuple[float, Verdict]:
    """Return the worst row error of a relation on one example, and whether the port keeps it."""
    with torch.no_grad():
        worst = RELATIONS[relation](spec)
    return worst, Verdict.PARITY if worst <= AGREEMENT else Verdict.DIVERGED


def command(relation: str, spec: Spec) -> str:
    """Return the command that runs one example again."""
    return f"parity metamorphic {relation} --spec '{spec.to_json()}'"


def _worst(found: Tensor, wanted: Tensor) -> float:
    """Return the largest relative error of a row (last dim)."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())
