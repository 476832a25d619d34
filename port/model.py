"""Qwen3-VL: pictures, videos and text in, logits out; batches, prefill at once or in chunks, and decoding.

Shape legend
    B, S, T   batch, new tokens, all tokens so far
    C, V      hidden_size, vocab_size
    N         patches of all pictures (or of all videos) of all rows, in reading order
    F         features: N / merge^2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from port.cache import KVCache
from port.config import Qwen3VLConfig
from port.errors import InputError
from port.grid import check_grid, merged_count
from port.kernels import PLAIN, PlainKernels
from port.layers import Linear
from port.mapped_file import MappedFile
from port.mrope import mrope_positions
from port.tap import Tap
from port.text import TextModel, causal_mask
from port.vision import VisionModel


@dataclass(frozen=True)
class Inputs:
    """One batch of prompts. A row may have any number of pictures and videos, or none.

    input_ids (B, S) int64; attention_mask (B, S), 1 at real tokens and 0 at padding on the left or the right;
    pixel_values (N, channels*T*P*P) with image_grid_thw (pictures, 3) are the pictures of all rows in reading order,
    pixel_values_videos and video_grid_thw the videos.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None
    pixel_values_videos: Tensor | None = None
    video_grid_thw: Tensor | None = None

    def to(self, device: torch.device) -> Inputs:
        """A copy with every tensor on ``device``."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Embedded:
    """A batch of prompts, ready for the language model. The tokens are on axis -2 or -1 of every tensor."""

    inputs_embeds: Tensor  # (B, S, C)
    position_ids: Tensor  # (3, B, S)
    rope_delta: Tensor  # (B, 1)
    attention_mask: Tensor  # (B, S)
    deepstack: list[Tensor]  # one (B, S, C) per tap, 0 at text tokens; empty without pictures


class LanguageAndVision(nn.Module):
    """Holds both parts under the names that checkpoints use: ``model.visual`` and ``model.language_model``."""

    def __init__(self, config: Qwen3VLConfig) -> None:
        super().__init__()
        self.visual = VisionModel(config.vision)
        self.language_model = TextModel(config.text)


class Qwen3VL(nn.Module):
    """The whole model. With tied embeddings there is no ``lm_head``: the logits use the embedding matrix."""

    kernels: PlainKernels = PLAIN

    def __init__(self, config: Qwen3VLConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LanguageAndVision(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self.tap = Tap("")
        self.files: Sequence[MappedFile] = ()  # those that hold weights

    @property
    def dtype(self) -> torch.dtype:
        return self.output_weight().dtype

    @property
    def device(self) -> torch.device:
        return self.output_weight().device

    def output_weight(self) -> Tensor:
        """The (V, C) matrix for the logits: the embedding matrix if it is tied, otherwise ``lm_head``."""
        if self.config.tie_word_embeddings:
            return self.model.language_model.embed_tokens.weight
        return self.lm_head.weight

    def forward(self, inputs: Inputs) -> Tensor:
        """All logits (B, S, V) of a batch, without a cache. Raises InputError for inputs that do not fit."""
        embedded = self.embed(inputs)
        mask = causal_mask(embedded.attention_mask.bool(), inputs.input_ids.shape[1])
        hidden = self.model.language_model(
            embedded.inputs_embeds, embedded.position_ids, mask, deepstack=embedded.deepstack
        )
        return self.logits(hidden)

    def prefill(self, inputs: Inputs, cache: KVCache, *, chunk: int | None = None) -> Tensor:
        """Run the prompts through the model into an empty ``cache``; returns all logits (B, S, V).

        ``chunk`` limits how many tokens go through the language model at once. The result is the same.
        """
        parts = [self.logits(hidden) for hidden in self._prefill(inputs, cache, chunk)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def prefill_last(self, inputs: Inputs, cache: KVCache, *, chunk: int | None = None) -> Tensor:
        """As ``prefill``, but returns only the logits (B, V) after the last real token of each row, for generation."""
        last = last_real(inputs.attention_mask)  # (B,)
        kept: list[Tensor | None] = [None] * len(last)
        start = 0
        for hidden in self._prefill(inputs, cache, chunk):
            for row, place in enumerate((last - start).tolist()):
                if 0 <= place < hidden.shape[1]:
                    kept[row] = hidden[row, place]
            start += hidden.shape[1]
        hidden = torch.stack([row for row in kept if row is not None]).unsqueeze(1)  # (B, 1, C)
        return self.logits(hidden)[:, 0]

    def _prefill(self, inputs: Inputs, cache: KVCache, chunk: int | None) -> Iterator[Tensor]:
        """Yield the final hidden states (B, chunk, C) of each chunk."""
        if cache.length:
            raise InputError(f"prefill needs an empty cache, this one holds {cache.length} tokens; create a new one")
        total = inputs.input_ids.shape[1]
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; it must be at least 1")
        embedded = self.embed(inputs)
        cache.rope_delta = embedded.rope_delta
        for start in range(0, total, chunk or total):
            part = slice(start, min(start + (chunk or total), total))
            cache.extend(embedded.attention_mask[:, part])
            yield self.model.language_model(
                embedded.inputs_embeds[:, part],
                embedded.position_ids[:, :, part],
                causal_mask(cache.visible, part.stop - part.start),
                cache=cache,
                deepstack=[feature[:, part] for feature in embedded.deepstack],
            )

    def decode(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, S, V) of the next text tokens (B, S), usually S = 1, after ``prefill``."""
        if not cache.length:
            raise InputError("decode needs the cache of a prefill, but this one is empty; call prefill first")
        if token_ids.ndim != 2 or 0 in token_ids.shape:
            raise InputError(f"token_ids {tuple(token_ids.shape)} must be (batch, tokens), with at least one of each")
        self.check_files()
        token_ids = self.tap("input_ids", token_ids)
        self._check_vocabulary(token_ids)
        position_ids = cache.next_positions(token_ids.shape[1])
        cache.extend(torch.ones_like(token_ids))
        hidden = self.model.language_model(
            self.tap("text.embed_tokens", self.model.language_model.embed_tokens(token_ids)),
            position_ids,
            causal_mask(cache.visible, token_ids.shape[1]),
            cache=cache,
        )
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:  # (B, S, C) -> (B, S, V)
        return self.tap("logits", self.kernels.linear(hidden, self.output_weight()))

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for ``batch`` rows of at most ``capacity`` tokens, prompt and padding included."""
        return KVCache(self.config.text, batch, capacity, dtype=self.dtype, device=self.device)

    def embed(self, inputs: Inputs) -> Embedded:
        """Token embeddings with the features of pictures and videos in place, positions, and DeepStack features."""
        config, tap = self.config, self.tap
        self._check(inputs)
        self.check_files()
        input_ids = tap("input_ids", inputs.input_ids)
        attention_mask = tap("attention_mask", inputs.attention_mask)
        position_ids, rope_delta = mrope_positions(
            input_ids,
            attention_mask,
            image_grid_thw=inputs.image_grid_thw,
            video_grid_thw=inputs.video_grid_thw,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            merge=config.vision.spatial_merge_size,
        )
        rope_delta = tap("rope_delta", rope_delta)
        embeds = tap("text.embed_tokens", self.model.language_model.embed_tokens(input_ids))  # (B, S, C)
        deepstack: list[Tensor] = []
        kinds = [
            ("image", config.image_token_id, inputs.pixel_values, inputs.image_grid_thw),
            ("video", config.video_token_id, inputs.pixel_values_videos, inputs.video_grid_thw),
        ]
        for kind, token_id, pixels, grids in kinds:
            if pixels is None or grids is None:
                continue
            mask = tap(f"{kind}_mask", (input_ids == token_id) & attention_mask.bool())  # (B, S)
            features, taps = self.model.visual(tap(f"{kind}_pixels", pixels), tap(f"{kind}_grid_thw", grids))
            embeds = scatter(embeds, mask, features)
            if not deepstack:
                deepstack = [torch.zeros_like(embeds) for _ in taps]
            deepstack = [scatter(at, mask, feature) for at, feature in zip(deepstack, taps, strict=True)]
        return Embedded(embeds, position_ids, rope_delta, attention_mask, deepstack)

    def check_files(self) -> None:
        """Raise WeightsError if a file that holds weights was changed. Done before every forward."""
        for file in self.files:
            file.check()

    def _check(self, inputs: Inputs) -> None:
        ids, mask = inputs.input_ids, inputs.attention_mask
        if ids.ndim != 2 or 0 in ids.shape or ids.shape != mask.shape:
            raise InputError(
                f"input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} must both be (batch, tokens), "
                "with at least one of each"
            )
        self._check_vocabulary(ids)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"attention_mask holds {torch.unique(mask).tolist()}; it must hold only 0 (padding) and 1")
        empty = (mask.sum(dim=1) == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"rows {empty} of attention_mask are all padding; every row needs a real token")
        merge = self.config.vision.spatial_merge_size
        kinds = [
            ("image", self.config.image_token_id, inputs.pixel_values, inputs.image_grid_thw, ""),
            (
                "video",
                self.config.video_token_id,
                inputs.pixel_values_videos,
                inputs.video_grid_thw,
                "_videos",
            ),
        ]
        for kind, token_id, pixels, grids, suffix in kinds:
            if (pixels is None) != (grids is None):
                raise InputError(f"pixel_values{suffix} and {kind}_grid_thw must be given together; one is missing")
            tokens = int(((ids == token_id) & mask.bool()).sum())
            if grids is not None:
                check_grid(grids, merge, name=f"{kind}_grid_thw")
            features = 0 if grids is None else merged_count(grids, merge)
            if tokens != features:
                raise InputError(
                    f"the prompts hold {tokens} {kind} tokens (id {token_id}), but the grids of {kind}_grid_thw make "
                    f"{features} features; the two numbers must be equal"
                )
            if pixels is not None and not bool(torch.isfinite(pixels).all()):
                raise InputError(f"pixel_values{suffix} holds NaN or Inf; check the picture and its preprocessing")

    def _check_vocabulary(self, ids: Tensor) -> None:
        low, high = map(int, torch.aminmax(ids))
        if low < 0 or high >= self.config.text.vocab_size:
            raise InputError(
                f"token ids run from {low} to {high}, but the vocabulary has 0 to {self.config.text.vocab_size - 1}; "
                "is this the checkpoint's own tokenizer?"
            )


def last_real(attention_mask: Tensor) -> Tensor:
    """(B,): index of the last real token of each row of attention_mask (B, S), with padding on either side."""
    return attention_mask.shape[1] - 1 - attention_mask.flip(1).long().argmax(dim=1)


def scatter(target: Tensor, mask: Tensor, features: Tensor) -> Tensor:
    """A copy of target (B, S, C) with features (F, C) where mask (B, S) is True (F times), in reading order."""
    result = target.clone()
    result[mask] = features.to(target.dtype)
    return result
