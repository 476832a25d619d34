"""Mistakes where pictures meet text: token embeddings, the scatter of features, DeepStack.

Shape legend
    B, S, C   batch, prompt tokens, hidden_size
    F         picture tokens of all rows, in value order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import port.model
from parity.mutants.base import FLOAT32, Mutant, altered, around, rounded
from port.model import Embedded, Inputs, Qwen3VL
from port.text import DecoderLayer, TextModel
from port.vision import VisionModel

PICTURE, VIDEO, FORWARD = frozenset({"picture"}), frozenset({"video"}), frozenset({"forward"})
Scatter = Callable[[Tensor, Tensor, Tensor], Tensor]


def scatter_changed(change: Callable[..., Tensor], *, deepstack: bool) -> AbstractContextManager[None]:
    """``change(original scatter, target, mask, features)`` for DeepStack features, or for all others."""

    @contextmanager
    def planted() -> Iterator[None]:
        taps: list[Tensor] = []

        def visual(original: Any, self: VisionModel, *args: Any) -> Any:
            features, made = original(self, *args)
            taps.extend(made)
            return features, made

        def wrapper(original: Scatter, target: Tensor, mask: Tensor, features: Tensor) -> Tensor:
            mine = any(features is tap for tap in taps) is deepstack
            return change(original, target, mask, features) if mine else original(target, mask, features)

        with around(VisionModel, "forward", visual), around(port.model, "scatter", wrapper):
            yield

    return planted()


def features_changed(change: Callable[[Tensor, Tensor], Tensor], *, deepstack: bool) -> AbstractContextManager[None]:
    """``change(features (F, C), mask (B, S))`` makes the features that are scattered."""
    return scatter_changed(
        lambda original, target, mask, features: original(target, mask, change(features, mask)), deepstack=deepstack
    )


def embedded_changed(change: Callable[[Qwen3VL, Inputs, Embedded], Embedded]) -> AbstractContextManager[None]:
    return around(Qwen3VL, "embed", lambda original, self, inputs: change(self, inputs, original(self, inputs)))


def _features_given(change: Callable[[TextModel, list[Tensor]], list[Tensor] | None]) -> AbstractContextManager[None]:
    """``change(model, features)`` makes what the language model is given to add, one a layer."""

    def forward(original: Any, self: TextModel, *args: Any, deepstack: Any = None, **options: Any) -> Tensor:
        return original(self, *args, deepstack=change(self, deepstack) if deepstack else deepstack, **options)

    return around(TextModel, "forward", forward)


def _images_first(model: Qwen3VL, inputs: Inputs, embedded: Embedded) -> Embedded:
    """Features of all pictures, then of all videos, go to the visual tokens in prompt order."""
    image, video = (inputs.input_ids == token for token in (model.config.image_token_id, model.config.video_token_id))

    def mixed(values: Tensor) -> Tensor:
        result = values.clone()
        result[image | video] = torch.cat([values[image], values[video]])
        return result

    return replace(
        embedded, inputs_embeds=mixed(embedded.inputs_embeds), deepstack=[mixed(x) for x in embedded.deepstack]
    )


def _videos_left_as_text(model: Qwen3VL, inputs: Inputs, embedded: Embedded) -> Embedded:
    video = inputs.input_ids == model.config.video_token_id
    embeds = embedded.inputs_embeds.clone()
    embeds[video] = model.model.language_model.embed_tokens(inputs.input_ids[video])
    return replace(embedded, inputs_embeds=embeds, deepstack=[x * ~video.unsqueeze(-1) for x in embedded.deepstack])


def _first_channels_only(original: Scatter, target: Tensor, mask: Tensor, features: Tensor) -> Tensor:
    """The range over the channels is as long as the prompt."""
    full, tokens = original(target, mask, features), target.shape[1]
    return torch.cat([full[..., :tokens], target[..., tokens:]], dim=-1)


def _restarting_in_each_row(features: Tensor, mask: Tensor) -> Tensor:
    """Every row takes features from the first one on."""
    return torch.cat([features[:count] for count in mask.sum(dim=1).tolist()])


def _rows_reversed(features: Tensor, mask: Tensor) -> Tensor:
    """The pictures of the last row go to the first row, and so on."""
    counts = mask.sum(dim=1).tolist()
    return torch.cat(list(reversed(features.split(counts))))


def _one_token(features: Tensor, _mask: Tensor) -> Tensor:
    features = features.clone()
    features[len(features) // 2] = features[0]
    return features


@contextmanager
def _each_chunk_from_the_first() -> Iterator[None]:
    """Every chunk of a prefill takes DeepStack features from the first one on."""
    whole: list[Tensor] = []

    def embed(original: Any, self: Qwen3VL, inputs: Inputs) -> Embedded:
        embedded = original(self, inputs)
        whole[:] = embedded.deepstack
        return embedded

    def change(_model: TextModel, chunk: list[Tensor]) -> list[Tensor]:
        visual = [(feature != 0).any(dim=-1) for feature in (whole[0], chunk[0])]  # (B, S), (B, S of the chunk)
        result = [torch.zeros_like(feature) for feature in chunk]
        for target, source in zip(result, whole, strict=True):
            target[visual[1]] = source[visual[0]][: int(visual[1].sum())]
        return result

    with around(Qwen3VL, "embed", embed), _features_given(change):
        yield


def _at_vision_indices(model: TextModel, features: list[Tensor]) -> list[Tensor]:
    """After the layers that have the numbers of the tapped vision blocks."""
    at = dict(zip(_TAPS[len(features)], features, strict=True))
    return [at.get(layer, torch.zeros_like(features[0])) for layer in range(max(at) + 1)][: len(model.layers)]


# The tapped blocks of the tiny shapes, by how many there are.
_TAPS = {3: (1, 3, 4), 2: (0, 2), 1: (2,)}


def _first_row(features: Tensor) -> Tensor:
    return torch.cat([features[:1], torch.zeros_like(features[1:])])


def _one_layer_late(_model: TextModel, features: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(features[0]), *features[:-1]]


def _added_before_the_layer() -> AbstractContextManager[None]:
    """DeepStack features are added to a layer's input; what was added after it is not."""

    @contextmanager
    def planted() -> Iterator[None]:
        held: list[Tensor] = []

        def forward(original: Any, self: TextModel, *args: Any, deepstack: Any = None, **options: Any) -> Tensor:
            held[:] = deepstack or []
            zeros = [torch.zeros_like(feature) for feature in held]
            return original(self, *args, deepstack=zeros or deepstack, **options)

        def layer(original: Any, self: DecoderLayer, x: Tensor, *rest: Any) -> Tensor:
            index = self.self_attn.layer
            return original(self, x + held[index] if index < len(held) else x, *rest)

        with around(TextModel, "forward", forward), around(DecoderLayer, "forward", layer):
            yield

    return planted()


def _other_order() -> AbstractContextManager[None]:
    """The features are added to the MLP's output, and their sum to the stream: the same sum, rounded elsewhere."""

    @contextmanager
    def planted() -> Iterator[None]:
        held: list[Tensor] = []
        stream: dict[int, Tensor] = {}

        def forward(original: Any, self: TextModel, *args: Any, deepstack: Any = None, **options: Any) -> Tensor:
            held[:] = deepstack or []
            return original(self, *args, deepstack=deepstack, **options)

        def layer(_original: Any, self: DecoderLayer, x: Tensor, *rest: Any) -> Tensor:
            x = x + self.self_attn(self.tap("input_norm", self.input_layernorm(x)), *rest)
            mlp = self.tap("mlp.out", self.mlp(self.tap("post_attention_norm", self.post_attention_layernorm(x))))
            index = self.self_attn.layer
            if index < len(held):
                stream[index] = x + (mlp + held[index])
            return self.tap("out", x + mlp)

        with (
            around(TextModel, "forward", forward),
            around(DecoderLayer, "forward", layer),
            altered("text.layers.{}.deepstack", lambda _x, index: stream[index]),
        ):
            yield

    return planted()


@contextmanager
def _embedding_off_by_one() -> Iterator[None]:
    """In the language model only: the position table of the tower is an nn.Embedding too."""

    def wrapper(original: Any, self: Qwen3VL, *args: Any, **options: Any) -> Any:
        table = self.model.language_model.embed_tokens
        shifted = nn.Embedding.from_pretrained(table.weight.roll(-1, dims=0))
        modules = self.model.language_model._modules
        modules["embed_tokens"] = shifted
        try:
            return original(self, *args, **options)
        finally:
            modules["embed_tokens"] = table

    with around(Qwen3VL, "embed", wrapper):
        yield


def _scatter(id: str, title: str, plant: Any, needs: frozenset[str] = PICTURE, **more: Any) -> Mutant:
    component = more.pop("component", "scatter")
    return Mutant(
        id=id, title=title, component=component, seam="text.inputs_embeds", step="prefill", plant=plant, needs=needs,
        **more,
    )  # fmt: skip


def _deepstack(id: str, title: str, plant: Any, needs: frozenset[str] = PICTURE, **more: Any) -> Mutant:
    seam = more.pop("seam", "text.layers.{}.deepstack")
    return Mutant(
        id=id, title=title, component="deepstack", seam=seam, step="prefill", plant=plant, needs=needs, **more
    )


def _tokens(id: str, title: str, plant: Any, needs: frozenset[str] = FORWARD, **more: Any) -> Mutant:
    return Mutant(
        id=id, title=title, component="embedding", seam="text.embed_tokens", step="prefill", plant=plant, needs=needs,
        **more,
    )  # fmt: skip


MUTANTS = [
    _tokens("embedding-row-off-by-one", "token embeddings are those of the next token", _embedding_off_by_one),
    _tokens(
        "embedding-scaled",
        "token embeddings are scaled by the root of the width, as in Gemma",
        lambda: altered("text.embed_tokens", lambda x: x * x.shape[-1] ** 0.5),
    ),
    _tokens(
        "embedding-in-bf16",
        "token embeddings are rounded to bfloat16 in every model",
        lambda: altered("text.embed_tokens", lambda x: rounded(x, torch.bfloat16)),
        frozenset({"forward", "weights finer than bfloat16"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 there",
    ),
    _scatter(
        "feature-order-images-first",
        "features of pictures, then of videos, go to visual tokens in prompt order",
        lambda: embedded_changed(_images_first),
        frozenset({"video first"}),
        real=True,
        source="vmlx-swift #404; TensorRT-LLM #15852; vLLM #46213",
    ),
    _scatter(
        "embed-scatter-hidden-slice-uses-seqlen",
        "only as many channels are written as the prompt has tokens",
        lambda: scatter_changed(_first_channels_only, deepstack=False),
        frozenset({"picture", "short"}),
        real=True,
        source="mistral.rs, c98198c21 (#1690)",
    ),
    _scatter(
        "video-token-mask-omitted",
        "video tokens keep their token embeddings",
        lambda: embedded_changed(_videos_left_as_text),
        VIDEO,
        component="video",
        real=True,
        source="mlx-vlm, 1b65dfd3 (#529)",
    ),
    _scatter(
        "features-reversed",
        "picture features are scattered from the last to the first",
        lambda: features_changed(lambda features, _mask: features.flip(0), deepstack=False),
    ),
    _scatter(
        "features-of-rows-swapped",
        "the pictures of the last row go to the first row",
        lambda: features_changed(_rows_reversed, deepstack=False),
        frozenset({"pictures in two rows"}),
        component="batch",
    ),
    _scatter(
        "features-restart-in-each-row",
        "every row takes features from the first one on",
        lambda: features_changed(_restarting_in_each_row, deepstack=False),
        frozenset({"pictures in two rows"}),
        component="batch",
    ),
    _scatter(
        "one-feature-wrong",
        "one picture token among all has the features of the first",
        lambda: features_changed(_one_token, deepstack=False),
    ),
    _scatter(
        "features-added-to-embeddings",
        "features are added to the placeholder's embedding, which they should replace",
        lambda: scatter_changed(
            lambda original, target, mask, features: target + original(torch.zeros_like(target), mask, features),
            deepstack=False,
        ),
    ),
    _deepstack(
        "deepstack-not-injected",
        "DeepStack features are not added",
        lambda: _features_given(lambda _model, features: [torch.zeros_like(x) for x in features]),
        real=True,
        source="lmstudio-ai/mlx-engine #237; onnxruntime-genai #2513; mlx-vlm #1635; vLLM #43617",
    ),
    _deepstack(
        "deepstack-offset-not-advanced-per-row",
        "every row takes DeepStack features from the first one on",
        lambda: features_changed(_restarting_in_each_row, deepstack=True),
        frozenset({"pictures in two rows"}),
        real=True,
        source="mlx-vlm, 81426ea5 -> 410dcffd; #2299",
    ),
    _deepstack(
        "deepstack-chunked-prefill-offset0",
        "every chunk takes DeepStack features from the first one on",
        _each_chunk_from_the_first,
        frozenset({"chunked"}),
        real=True,
        source="mlx-vlm 5b573802 (#1332, #856); sglang-omni #181/#134",
    ),
    _deepstack(
        "deepstack-injected-at-vit-indices",
        "DeepStack features are added after the layers that have the vision blocks' numbers",
        lambda: _features_given(_at_vision_indices),
        real=True,
        source="wangzhaode/llm-export #79; vLLM-metax #118",
    ),
    _deepstack(
        "deepstack-injection-order-one-layer-late",
        "DeepStack features are added in another rounding order",
        _other_order,
        real=True,
        source="SGLang #14636, #34690",
        dtypes=(),
        invisible="the same sum, rounded elsewhere: no gate may see it in any dtype",
    ),
    _deepstack(
        "deepstack-one-layer-late",
        "DeepStack features are added one layer late",
        lambda: _features_given(_one_layer_late),
    ),
    _deepstack(
        "deepstack-before-the-layer",
        "DeepStack features are added to a layer's input",
        _added_before_the_layer,
        seam="text.layers.0.input_norm",
    ),
    _deepstack(
        "deepstack-path-missing",
        "the language model has no DeepStack at all",
        lambda: _features_given(lambda _model, _features: None),
    ),
    _deepstack(
        "deepstack-order-reversed",
        "the last DeepStack features are added first",
        lambda: _features_given(lambda _model, features: features[::-1]),
        frozenset({"picture", "several taps"}),
    ),
    _deepstack(
        "deepstack-not-for-videos",
        "DeepStack features of videos are not added",
        lambda: embedded_changed(
            lambda model, inputs, embedded: replace(
                embedded,
                deepstack=[
                    x * (inputs.input_ids != model.config.video_token_id).unsqueeze(-1) for x in embedded.deepstack
                ],
            )
        ),
        VIDEO,
    ),
    _deepstack(
        "deepstack-last-tap-lost",
        "the last DeepStack features are not added",
        lambda: _features_given(lambda _model, features: [*features[:-1], torch.zeros_like(features[-1])]),
    ),
    _deepstack(
        "deepstack-first-row-only",
        "DeepStack features are added to the first row only",
        lambda: _features_given(lambda _model, features: [_first_row(x) for x in features]),
        frozenset({"picture in a later row"}),
    ),
]
