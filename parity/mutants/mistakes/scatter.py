"""Mistakes where picture features join the text: token embeddings, the scatter of features, DeepStack.

Shape legend
    B, S, C   batch, prompt tokens, hidden_size
    F         picture tokens of all rows, in the order of the prompts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import port.model
from parity.mutants.arithmetic import copied, rounded
from parity.mutants.base import FLOAT32, FORWARD, PICTURE, VIDEO, altered, around, family, replaced
from port.model import Embedded, Inputs, Qwen3VL
from port.text import DecoderLayer, TextModel
from port.vision import VisionModel

Scatter = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def scatter_changed(change: Callable[..., Tensor], *, deepstack: bool) -> Iterator[None]:
    """``change(original scatter, target, mask, features)`` scatters DeepStack features, or all others."""
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


def features_changed(change: Callable[[Tensor, Tensor], Tensor], *, deepstack: bool) -> AbstractContextManager[None]:
    """``change(features (F, C), mask (B, S))`` are the features that are scattered."""
    return scatter_changed(
        lambda original, target, mask, features: original(target, mask, change(features, mask)), deepstack=deepstack
    )


def embedded_changed(change: Callable[[Qwen3VL, Inputs, Embedded], Embedded]) -> AbstractContextManager[None]:
    """``change(model, inputs, embedded)`` is what the language model gets for a prompt."""
    return around(Qwen3VL, "embed", lambda original, self, inputs: change(self, inputs, original(self, inputs)))


def _features_given(change: Callable[[TextModel, list[Tensor]], list[Tensor] | None]) -> AbstractContextManager[None]:
    """The language model adds ``change(model, features)``, one tensor per layer, instead of the DeepStack features."""

    def forward(original: Any, self: TextModel, *args: Any, deepstack: Any = None, **options: Any) -> Tensor:
        return original(self, *args, deepstack=change(self, deepstack) if deepstack else deepstack, **options)

    return around(TextModel, "forward", forward)


def _images_first(model: Qwen3VL, inputs: Inputs, embedded: Embedded) -> Embedded:
    """The visual tokens of the prompt get the features of all pictures first, then those of all videos."""
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
    """As many channels are written as the prompt has tokens."""
    full, tokens = original(target, mask, features), target.shape[1]
    return torch.cat([full[..., :tokens], target[..., tokens:]], dim=-1)


def _restarting_in_each_row(features: Tensor, mask: Tensor) -> Tensor:
    """Every row starts again at the first feature."""
    return torch.cat([features[:count] for count in mask.sum(dim=1).tolist()])


def _rows_reversed(features: Tensor, mask: Tensor) -> Tensor:
    """The pictures of the last row go to the first row, and so on."""
    counts = mask.sum(dim=1).tolist()
    return torch.cat(list(reversed(features.split(counts))))


def _one_token(features: Tensor, _mask: Tensor) -> Tensor:
    return copied(features, to=len(features) // 2, of=0)


@contextmanager
def _each_chunk_from_the_first() -> Iterator[None]:
    """Every chunk of a prefill starts again at the first DeepStack feature."""
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
    """Features are added after the layers that have the numbers of the tapped vision blocks."""
    at = dict(zip(_TAPS[len(features)], features, strict=True))
    return [at.get(layer, torch.zeros_like(features[0])) for layer in range(max(at) + 1)][: len(model.layers)]


# The tapped vision blocks of the tiny shapes, by their number.
_TAPS = {3: (1, 3, 4), 2: (0, 2), 1: (2,)}


def _first_row(features: Tensor) -> Tensor:
    return torch.cat([features[:1], torch.zeros_like(features[1:])])


def _one_layer_late(_model: TextModel, features: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(features[0]), *features[:-1]]


def _no_features(_model: TextModel, features: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(feature) for feature in features]


@contextmanager
def _features_held() -> Iterator[list[Tensor]]:
    """The DeepStack features of the current forward, one tensor per layer; empty in decode steps."""
    held: list[Tensor] = []

    def forward(original: Any, self: TextModel, *args: Any, deepstack: Any = None, **options: Any) -> Tensor:
        held[:] = deepstack or []
        return original(self, *args, deepstack=deepstack, **options)

    with around(TextModel, "forward", forward):
        yield held


@contextmanager
def _added_before_the_layer() -> Iterator[None]:
    """DeepStack features are added to a layer's input, and zeros to its output."""
    with _features_given(_no_features), _features_held() as held:  # planted last, so it is called first

        def layer(original: Any, self: DecoderLayer, x: Tensor, *rest: Any) -> Tensor:
            index = self.self_attn.layer
            return original(self, x + held[index] if index < len(held) else x, *rest)

        with around(DecoderLayer, "forward", layer):
            yield


@contextmanager
def _other_order() -> Iterator[None]:
    """Features are added to the MLP's output first, then to the stream: the same sum with other rounding."""
    stream: dict[int, Tensor] = {}

    with _features_held() as held, altered("text.layers.{}.deepstack", lambda _x, index: stream[index]):

        def layer(_original: Any, self: DecoderLayer, x: Tensor, *rest: Any) -> Tensor:
            x = x + self.self_attn(self.tap("input_norm", self.input_layernorm(x)), *rest)
            mlp = self.tap("mlp.out", self.mlp(self.tap("post_attention_norm", self.post_attention_layernorm(x))))
            index = self.self_attn.layer
            if index < len(held):
                stream[index] = x + (mlp + held[index])
            return self.tap("out", x + mlp)

        with around(DecoderLayer, "forward", layer):
            yield


def _embedding_off_by_one() -> AbstractContextManager[None]:
    """In the language model only; the position table of the tower is an nn.Embedding too."""

    def wrapper(original: Any, self: Qwen3VL, *args: Any, **options: Any) -> Any:
        language = self.model.language_model
        shifted = nn.Embedding.from_pretrained(language.embed_tokens.weight.roll(-1, dims=0))
        with replaced(language, "_modules", {**language._modules, "embed_tokens": shifted}):
            return original(self, *args, **options)

    return around(Qwen3VL, "embed", wrapper)


tokens = family(component="embedding", seam="text.embed_tokens", step="prefill", needs=FORWARD)
features = family(component="scatter", seam="text.inputs_embeds", step="prefill", needs=PICTURE)
deepstack = family(component="deepstack", seam="text.layers.{}.deepstack", step="prefill", needs=PICTURE)

MUTANTS = [
    tokens("embedding-row-off-by-one", "token embeddings are those of the next token", _embedding_off_by_one),
    tokens(
        "embedding-scaled",
        "token embeddings are scaled by the square root of the width, as in Gemma",
        lambda: altered("text.embed_tokens", lambda x: x * x.shape[-1] ** 0.5),
    ),
    tokens(
        "embedding-in-bf16",
        "token embeddings are always rounded to bfloat16",
        lambda: altered("text.embed_tokens", lambda x: rounded(x, torch.bfloat16)),
        needs=frozenset({"forward", "weights finer than bfloat16"}),
        dtypes=(FLOAT32,),
        invisible="bfloat16: they are bfloat16 anyway",
    ),
    features(
        "feature-order-images-first",
        "visual tokens get the features of all pictures first, then those of all videos",
        lambda: embedded_changed(_images_first),
        needs=frozenset({"video first"}),
        real=True,
        source="vmlx-swift #404; TensorRT-LLM #15852; vLLM #46213",
    ),
    features(
        "embed-scatter-hidden-slice-uses-seqlen",
        "only as many channels are written as the prompt has tokens",
        lambda: scatter_changed(_first_channels_only, deepstack=False),
        needs=frozenset({"picture", "short"}),
        real=True,
        source="mistral.rs, c98198c21 (#1690)",
    ),
    features(
        "video-token-mask-omitted",
        "video tokens keep their token embeddings",
        lambda: embedded_changed(_videos_left_as_text),
        component="video",
        needs=VIDEO,
        real=True,
        source="mlx-vlm, 1b65dfd3 (#529)",
    ),
    features(
        "features-reversed",
        "picture features are scattered in reverse order",
        lambda: features_changed(lambda features, _mask: features.flip(0), deepstack=False),
    ),
    features(
        "features-of-rows-swapped",
        "picture features of the last row go to the first row",
        lambda: features_changed(_rows_reversed, deepstack=False),
        component="batch",
        needs=frozenset({"pictures in two rows"}),
    ),
    features(
        "features-restart-in-each-row",
        "every row starts again at the first picture feature",
        lambda: features_changed(_restarting_in_each_row, deepstack=False),
        component="batch",
        needs=frozenset({"pictures in two rows"}),
    ),
    features(
        "one-feature-wrong",
        "one picture token has the features of the first",
        lambda: features_changed(_one_token, deepstack=False),
    ),
    features(
        "features-added-to-embeddings",
        "features are added to the placeholder's embedding instead of replacing it",
        lambda: scatter_changed(
            lambda original, target, mask, features: target + original(torch.zeros_like(target), mask, features),
            deepstack=False,
        ),
    ),
    deepstack(
        "deepstack-not-injected",
        "DeepStack features are not added",
        lambda: _features_given(_no_features),
        real=True,
        source="lmstudio-ai/mlx-engine #237; onnxruntime-genai #2513; mlx-vlm #1635; vLLM #43617",
    ),
    deepstack(
        "deepstack-offset-not-advanced-per-row",
        "every row starts again at the first DeepStack feature",
        lambda: features_changed(_restarting_in_each_row, deepstack=True),
        needs=frozenset({"pictures in two rows"}),
        real=True,
        source="mlx-vlm, 81426ea5 -> 410dcffd; #2299",
    ),
    deepstack(
        "deepstack-chunked-prefill-offset0",
        "every chunk starts again at the first DeepStack feature",
        _each_chunk_from_the_first,
        needs=frozenset({"chunked"}),
        real=True,
        source="mlx-vlm 5b573802 (#1332, #856); sglang-omni #181/#134",
    ),
    deepstack(
        "deepstack-injected-at-vit-indices",
        "DeepStack features are added after the layers numbered like the tapped vision blocks",
        lambda: _features_given(_at_vision_indices),
        real=True,
        source="wangzhaode/llm-export #79; vLLM-metax #118",
    ),
    deepstack(
        "deepstack-injection-order-one-layer-late",
        "DeepStack features are added in another order, which rounds differently",
        _other_order,
        real=True,
        source="SGLang #14636, #34690",
        dtypes=(),
        invisible="any dtype: the same sum with other rounding, which no gate may report",
    ),
    deepstack(
        "deepstack-one-layer-late",
        "DeepStack features are added one layer late",
        lambda: _features_given(_one_layer_late),
    ),
    deepstack(
        "deepstack-before-the-layer",
        "DeepStack features are added to a layer's input instead of its output",
        _added_before_the_layer,
        seam="text.layers.0.input_norm",
    ),
    deepstack(
        "deepstack-path-missing",
        "the language model has no DeepStack at all",
        lambda: _features_given(lambda _model, _features: None),
    ),
    deepstack(
        "deepstack-order-reversed",
        "DeepStack features are added in reverse order",
        lambda: _features_given(lambda _model, features: features[::-1]),
        needs=frozenset({"picture", "several taps"}),
    ),
    deepstack(
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
        needs=VIDEO,
    ),
    deepstack(
        "deepstack-last-tap-lost",
        "the last DeepStack features are not added",
        lambda: _features_given(lambda _model, features: [*features[:-1], torch.zeros_like(features[-1])]),
    ),
    deepstack(
        "deepstack-first-row-only",
        "only the first row gets DeepStack features",
        lambda: _features_given(lambda _model, features: [_first_row(x) for x in features]),
        needs=frozenset({"picture in a later row"}),
    ),
]
