"""Tensors that a model must refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.engines.refusals.base import Bad, Things
from port.layers import Conv3dNoBias


@torch.no_grad()
def _decoded(things: Things, token_ids: Tensor, *, room: int = 9) -> Any:
    model, inputs = things.model, things.inputs
    cache = model.new_cache(1, inputs.input_ids.shape[1] + room)
    model.prefill(inputs, cache)
    return model.decode(token_ids, cache)


@torch.no_grad()
def _prefilled_twice(things: Things) -> Any:
    cache = things.model.new_cache(1, 2 * things.inputs.input_ids.shape[1])
    things.model.prefill(things.inputs, cache)
    return things.model.prefill(things.inputs, cache)


@torch.no_grad()
def _prefilled(things: Things, rows: int, tokens: int, chunk: int | None = None) -> Any:
    room = things.inputs.input_ids.shape[1] + tokens
    return things.model.prefill(things.inputs, things.model.new_cache(rows, room), chunk=chunk)


def _changed(name: str, at: int, value: float) -> Any:
    """The inputs with one number of a tensor replaced."""

    def give(things: Things) -> Any:
        tensor = getattr(things.inputs, name).clone()
        tensor.view(-1)[at] = value
        return things.fed(**{name: tensor})

    return give


def _grids(change: Any) -> Any:
    return lambda things: things.fed(image_grid_thw=change(things.inputs.image_grid_thw))


def _pictures(things: Things) -> tuple[Tensor, Tensor]:
    """The grids and pixels of the inputs."""
    grids, pixels = things.inputs.image_grid_thw, things.inputs.pixel_values
    assert grids is not None
    assert pixels is not None
    return grids, pixels


def _one_grid_more(things: Things) -> Any:
    """A picture of text tokens: its grid has no tokens, while another one has too many."""
    grids, pixels = _pictures(things)
    t, h, w = grids[0].tolist()
    grids = torch.cat([grids, torch.tensor([[t, h, w]])])
    pixels = torch.cat([pixels, pixels[: t * h * w]])
    return things.fed(image_grid_thw=grids, pixel_values=pixels)


TENSORS: Mapping[str, Bad] = {
    "ids of one axis": Bad(
        "must both be", lambda things: things.model(replace(things.inputs, input_ids=torch.zeros(3)))
    ),
    "a mask of another shape": Bad("must both be", lambda things: things.fed(attention_mask=torch.ones(1, 2))),
    "no tokens at all": Bad(
        "at least one",
        lambda things: things.model(
            replace(things.inputs, input_ids=torch.zeros(1, 0), attention_mask=torch.zeros(1, 0))
        ),
    ),
    "an id above the vocabulary": Bad("vocabulary", _changed("input_ids", 0, 10**6)),
    "a negative id": Bad("vocabulary", _changed("input_ids", 0, -1)),
    "a mask with a 2": Bad("only 0", _changed("attention_mask", 0, 2)),
    "a row of padding": Bad("all padding", lambda things: things.fed(attention_mask=0 * things.inputs.attention_mask)),
    "pixels without grids": Bad("given together", lambda things: things.fed(image_grid_thw=None)),
    "grids without pixels": Bad("given together", lambda things: things.fed(pixel_values=None)),
    "fewer picture tokens than features": Bad(
        "features", lambda things: _changed("attention_mask", _first_pad(things), 0)(things)
    ),
    "more grids than tokens": Bad("features", _one_grid_more),
    "NaN in pixels": Bad("NaN", _changed("pixel_values", 7, float("nan"))),
    "Inf in pixels": Bad("NaN or Inf", _changed("pixel_values", 7, float("inf"))),
    "a grid of no frames": Bad("at least 1", _grids(lambda grids: grids * torch.tensor([0, 1, 1]))),
    "a grid that cannot be merged": Bad("multiples", _grids(lambda grids: grids + torch.tensor([0, 1, 0]))),
    "grids of two axes": Bad("(pictures, 3)", _grids(lambda grids: grids[:, :2])),
    "grids in another order": Bad("needs", _grids(lambda grids: grids.flip(0))),
    "a patch missing": Bad("one row per patch", lambda things: things.fed(pixel_values=_pictures(things)[1][:-1])),
    "patches of another size": Bad(
        "one row per patch", lambda things: things.fed(pixel_values=_pictures(things)[1][:, :-1])
    ),
    "video tokens without a video": Bad(
        "video tokens", lambda things: _changed("input_ids", 0, things.model.config.video_token_id)(things)
    ),
    "a cache that is in use": Bad("empty cache", _prefilled_twice),
    "a cache that is too small": Bad("larger capacity", lambda things: _prefilled(things, 1, -1)),
    "a cache of other rows": Bad("rows", lambda things: _prefilled(things, 2, 0)),
    "a chunk of no tokens": Bad("at least 1", lambda things: _prefilled(things, 1, 0, chunk=0)),
    "a step before the prefill": Bad(
        "prefill", lambda things: things.model.decode(torch.zeros(1, 1, dtype=torch.long), things.model.new_cache(1, 9))
    ),
    "a step of one axis": Bad("(batch, tokens)", lambda things: _decoded(things, torch.zeros(1, dtype=torch.long))),
    "a step without tokens": Bad(
        "(batch, tokens)", lambda things: _decoded(things, torch.zeros(1, 0, dtype=torch.long))
    ),
    "a step with an unknown id": Bad("vocabulary", lambda things: _decoded(things, torch.full((1, 1), 10**6))),
    "a step of other rows": Bad("rows", lambda things: _decoded(things, torch.zeros(2, 1, dtype=torch.long))),
    "a step beyond the cache": Bad(
        "larger capacity", lambda things: _decoded(things, torch.zeros(1, 3, dtype=torch.long), room=2)
    ),
    "a patch smaller than its kernel": Bad("channels", lambda things: _kernel(things)(torch.zeros(1, 3, 1, 4, 4))),
}


def _first_pad(things: Things) -> int:
    return int((things.inputs.input_ids[0] == things.model.config.image_token_id).nonzero()[0])


def _kernel(things: Things) -> Conv3dNoBias:
    return things.model.model.visual.patch_embed.proj
