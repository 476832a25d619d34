"""One interface to Hugging Face's Qwen3-VL: load, prefill, decode. Its files are never edited.

Shape legend
    B, S, T   batch, new tokens, all tokens so far (padding included)
    V         vocabulary
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, Qwen3VLForConditionalGeneration
from transformers.utils import logging as hf_logging

from reference.devices import has_float64
from reference.errors import ReferenceModelError
from reference.version import transformers_major
from reference.weights import LEGACY_KEYS

Attention = Literal["eager", "sdpa"]
PIXELS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


@dataclass
class State:
    """The state of one request between its steps. It is not kept on the model, where another request would see it."""

    cache: DynamicCache
    attention_mask: Tensor  # (B, T), 0 at padding
    next_position: Tensor  # (B, 1), the position of the next text token on all three axes


class ReferenceModel:
    """A loaded reference model. Its attention can be switched between runs without loading it again."""

    def __init__(self, model: Any, in_float64: ReferenceModel | None = None) -> None:
        self.model = model
        # The same model on a device that has float64, for the yardstick.
        self.in_float64 = in_float64 or self

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        attention: Attention = "eager",
        device: torch.device | str = "cpu",
    ) -> ReferenceModel:
        """Load from a local folder or a hub id. Only safetensors, no remote code, and every key must be used.

        On a ``device`` without float64, the model is also kept on the CPU, see ``in_float64``.

        Raises ReferenceModelError if a tensor is missing or left over: the reference would fill missing tensors
        with random numbers, and the yardstick would be useless.
        """
        shows_bars = hf_logging.is_progress_bar_enabled()
        hf_logging.disable_progress_bar()  # the caller shows its own
        try:
            model, info = Qwen3VLForConditionalGeneration.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                key_mapping=LEGACY_KEYS,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ReferenceModelError(f"the reference cannot load {source}: {error}") from error
        except Exception as error:
            # safetensors raises its own exception class for damaged files.
            if type(error).__name__ != "SafetensorError":
                raise
            raise ReferenceModelError(f"the reference cannot load {source}: {error}; a file is damaged") from error
        finally:
            if shows_bars:
                hf_logging.enable_progress_bar()
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        wrong = {kind: set(info[kind]) - tied for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        if any(wrong.values()):
            shown = {kind: sorted(map(str, keys))[:10] for kind, keys in wrong.items() if keys}
            raise ReferenceModelError(f"the reference loads only a part of {source}: {shown}; fix the checkpoint")
        model = model.eval().requires_grad_(False)
        device = torch.device(device)
        if has_float64(device):
            return cls(model.to(device))
        return cls(copy.deepcopy(model).to(device), in_float64=cls(model))

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def attention(self) -> str:
        return str(self.model.config._attn_implementation)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def version(self) -> str:
        return str(transformers.__version__)

    def use_attention(self, attention: Attention) -> None:
        self.model.set_attn_implementation(attention)

    @torch.no_grad()
    def prefill(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        """Return logits (B, S, V) of a batch of prompts, and the state for decoding.

        ``inputs`` holds input_ids and attention_mask (B, S) and, with pictures or videos, the tensors in PIXELS.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.model.model.rope_deltas = None  # otherwise those of an earlier request would be reused
        extra: dict[str, Tensor] = {name: inputs[name] for name in PIXELS if inputs.get(name) is not None}
        if not extra:
            # As ``generate`` does for text: positions count only real tokens.
            extra["position_ids"] = text_positions(mask).expand(3, -1, -1)
        elif transformers_major() >= 5:
            extra["mm_token_type_ids"] = self.token_types(ids)
        cache = DynamicCache(config=self.config.get_text_config())
        seen: list[Tensor] = []
        hook = self.model.model.language_model.rotary_emb.register_forward_pre_hook(
            lambda _module, args, kwargs: seen.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
        )
        try:
            out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        finally:
            hook.remove()
        positions = seen[0].expand(3, *ids.shape)  # (3, B, S)
        last = positions.masked_fill(mask.eq(0), -1).amax(dim=(0, 2))  # (B,)
        return out.logits, State(cache, mask, (last + 1).unsqueeze(1))

    @torch.no_grad()
    def decode(self, token_ids: Tensor, state: State) -> Tensor:
        """Feed the next text token (B, 1) of each row. Returns logits (B, 1, V) and advances ``state``."""
        state.attention_mask = torch.cat([state.attention_mask, torch.ones_like(token_ids)], dim=1)
        out = self.model(
            input_ids=token_ids,
            attention_mask=state.attention_mask,
            position_ids=state.next_position.expand(3, -1, -1),
            past_key_values=state.cache,
            use_cache=True,
        )
        state.next_position = state.next_position + 1
        logits: Tensor = out.logits
        return logits

    @torch.no_grad()
    def generate(
        self, inputs: Mapping[str, Tensor], *, max_new_tokens: int, eos_token_ids: Sequence[int] = (), **choice: Any
    ) -> list[list[int]]:
        """Generate new tokens for every row with transformers' ``generate``. Rows must not be padded on the right.

        Greedy by default; ``choice`` (do_sample, temperature, ...) changes that. Sampling uses torch's global
        generator. The checkpoint's generation_config.json is ignored. A row ends after ``max_new_tokens``, or with
        the first of ``eos_token_ids``, which is kept.
        """
        ids = inputs["input_ids"]
        self.model.model.rope_deltas = None
        extra = {name: inputs[name] for name in PIXELS if inputs.get(name) is not None}
        if extra and transformers_major() >= 5:
            # Without it, pictures are silently treated as text.
            extra["mm_token_type_ids"] = self.token_types(ids)
        settings = GenerationConfig(
            **({"top_k": 0, **choice} if choice.get("do_sample") else {"do_sample": False, **choice}),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(eos_token_ids) or None,
            pad_token_id=0,  # padding is cut off below
            use_cache=True,
        )
        own = self.model.generation_config
        # Otherwise fields that are None, such as the end tokens, are silently filled in from the checkpoint's config.
        self.model.generation_config = settings
        try:
            out = self.model.generate(
                input_ids=ids, attention_mask=inputs["attention_mask"], generation_config=settings, **extra
            )
        finally:
            self.model.generation_config = own
        rows = out[:, ids.shape[1] :].tolist()
        ends = set(eos_token_ids)
        lengths = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in rows]
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def token_types(self, ids: Tensor) -> Tensor:
        """Return 0 for text, 1 for picture and 2 for video tokens. transformers 5 requires them with the grids."""
        types = torch.zeros_like(ids)
        types[ids == self.config.image_token_id] = 1
        types[ids == self.config.video_token_id] = 2
        return types


def rope_delta(state: State) -> Tensor:
    """(B, 1): the next position minus the number of real tokens so far."""
    return state.next_position - state.attention_mask.sum(dim=1, keepdim=True)


def text_positions(attention_mask: Tensor) -> Tensor:
    """Positions (B, S) of a prompt without pictures; 0 at padding."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
