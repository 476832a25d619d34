"""Captures the reference's tensors with hooks on its modules and temporary wrappers around its functions.

``hidden_states`` is not enough: RoPE has no module, DeepStack features are added after a layer returns, and
positions and segment boundaries are local variables. The seams have the names and layouts of the port's taps.
Comments say where the reference's own layout differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from reference.errors import ReferenceModelError
from reference.model import ReferenceModel, State, rope_delta

# If a sink returns a tensor, the reference continues with that tensor. The isolated comparison works this way.
Sink = Callable[[str, Tensor], Tensor | None]


@contextmanager
def capturing(reference: ReferenceModel, sink: Sink) -> Iterator[None]:
    """Send every seam of every forward inside the ``with`` block to ``sink``, in order.

    The sink must copy the tensors that it keeps: the reference changes some of them in place afterwards. If the sink
    returns a tensor, it replaces the original. Inputs, masks, positions, caches and the interpolated position table
    cannot be replaced.
    """
    with ExitStack() as stack:
        _Capture(reference.model, sink, stack).install()
        yield


def send_state(state: State, sink: Sink, *, prefill: bool) -> None:
    """Send the seams in the state: rope delta (B, 1) after a prefill, caches (B, K, T, D) of every layer."""
    if prefill:
        sink("rope_delta", rope_delta(state))
    for index, layer in enumerate(state.cache.layers):
        sink(f"text.layers.{index}.attn.k_cache", layer.keys)
        sink(f"text.layers.{index}.attn.v_cache", layer.values)


class _Capture:
    def __init__(self, model: Any, sink: Sink, stack: ExitStack) -> None:
        self.model = model
        self.sink = sink
        self.stack = stack
        self.scope = sys.modules[type(model).__module__]
        self.attention = ""  # seam prefix of the attention module that is running

    def install(self) -> None:
        self._inputs()
        self._vision(self.model.model.visual)
        self._text(self.model.model.language_model)
        self._output(self.model.lm_head, "logits")

    # -- hooks and wrappers ---------------------------------------------------------------------------------------

    def _output(self, module: nn.Module, name: str) -> None:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            replaced = self.sink(name, first)
            if replaced is None:
                return None
            return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

        self.stack.callback(module.register_forward_hook(hook).remove)

    def _input(self, module: nn.Module, read: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
        """Call ``read(args, kwargs)`` before the module runs. It may return new (args, kwargs)."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return read(args, kwargs)

        self.stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _wrap(self, owner: Any, name: str, after: Callable[..., Any]) -> None:
        """Call ``after(result, *args, **kwargs)`` after each call of ``owner.name`` until the stack is closed.

        If ``after`` returns something other than None, that becomes the result.
        """
        original = getattr(owner, name)
        own = name in vars(owner)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            replaced = after(result, *args, **kwargs)
            return result if replaced is None else replaced

        setattr(owner, name, wrapper)
        if own:
            self.stack.callback(setattr, owner, name, original)
        else:
            self.stack.callback(delattr, owner, name)

    def _take(self, name: str, tensor: Tensor) -> Tensor:
        """Send a tensor to the sink. Returns the sink's replacement, or the tensor itself."""
        replaced = self.sink(name, tensor)
        return tensor if replaced is None else replaced

    # -- where the seams are -----------------------------------------------------------------------------------

    def _inputs(self) -> None:
        names = {
            "image_pixels": "pixel_values",
            "image_grid_thw": "image_grid_thw",
            "video_pixels": "pixel_values_videos",
            "video_grid_thw": "video_grid_thw",
        }

        def read(_args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.sink("input_ids", kwargs["input_ids"])
            # transformers 5.24 renamed past_key_values to cache.
            cache = kwargs.get("cache", kwargs.get("past_key_values"))
            if cache is None or cache.get_seq_length() == 0:
                self.sink("attention_mask", kwargs["attention_mask"])
            for seam, name in names.items():
                if kwargs.get(name) is not None:
                    self.sink(seam, kwargs[name])

        self._input(self.model.model, read)

        def masks(result: Any, *_args: Any, **kwargs: Any) -> None:
            for kind, mask in zip(("image", "video"), result, strict=True):
                if kwargs.get(f"{kind}_features") is not None:
                    self.sink(f"{kind}_mask", mask[..., 0])  # (B, S, 1 or C) -> (B, S)

        self._wrap(self.model.model, "get_placeholder_mask", masks)

    def _vision(self, visual: Any) -> None:
        self._output(visual.patch_embed, "vision.patch_embed")
        self._positions(visual)

        rotary: list[tuple[Tensor, Tensor]] = []

        def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            cos, sin = kwargs["position_embeddings"]
            hidden = self._take("vision.embed", args[0])
            rotary[:] = [(self._take("vision.rope_cos", cos), self._take("vision.rope_sin", sin))]
            self.sink("vision.cu_seqlens", kwargs["cu_seqlens"])
            return (hidden, *args[1:]), {**kwargs, "position_embeddings": rotary[0]}

        self._input(visual.blocks[0], first)
        for block in visual.blocks[1:]:
            self._input(block, lambda args, kwargs: (args, {**kwargs, "position_embeddings": rotary[0]}))
        for index, block in enumerate(visual.blocks):
            prefix = f"vision.blocks.{index}."
            self._output(block.norm1, prefix + "norm1")
            self._attention(block.attn, prefix + "attn.", block.attn.proj)
            self._output(block.attn.qkv, prefix + "attn.qkv")
            self._output(block.norm2, prefix + "norm2")
            self._output(block.mlp, prefix + "mlp.out")
            self._output(block, prefix + "out")
        for index, merger in enumerate(visual.deepstack_merger_list):
            self._output(merger, f"vision.deepstack.{index}")
        self._output(visual.merger, "vision.merger")

        def rotated(result: Any, *_args: Any, **_kwargs: Any) -> Any:
            q, k = result  # (N, H, D)
            return self._take(self.attention + "q_rope", q), self._take(self.attention + "k_rope", k)

        self._wrap(self.scope, "apply_rotary_pos_emb_vision", rotated)

    def _positions(self, visual: Any) -> None:
        """Capture the interpolated positions. They have no module: 4.57 uses a method, 5.x a line in forward."""
        if hasattr(visual, "fast_pos_embed_interpolate"):
            self._wrap(
                visual, "fast_pos_embed_interpolate", lambda result, *_a, **_k: self.sink("vision.pos_embed", result)
            )
            return
        function = "get_vision_interpolation_indices_and_weights"
        if not hasattr(self.scope, function):
            raise ReferenceModelError(
                f"{self.scope.__name__} has neither fast_pos_embed_interpolate nor {function}. This version of "
                "transformers is not supported; use 4.57 or a 5.x version that has one of them"
            )
        weights: list[Tensor] = []
        self._wrap(self.scope, function, lambda result, *_a, **_k: weights.append(result[1]))

        def looked_up(_module: nn.Module, _args: Any, rows: Tensor) -> None:
            # The same as the reference's next line, from its two tensors: (N, 4, C) x (N, 4, 1) -> (N, C).
            self.sink("vision.pos_embed", (rows * weights.pop()[:, :, None]).sum(1).to(rows.dtype))

        self.stack.callback(visual.pos_embed.register_forward_hook(looked_up).remove)

    def _attention(self, module: nn.Module, prefix: str, projection: nn.Module) -> None:
        def enter(_args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            self.attention = prefix

        self._input(module, enter)
        self._input(projection, lambda args, kwargs: ((self._take(prefix + "context", args[0]),), kwargs))
        self._output(module, prefix + "out")

    def _text(self, text: Any) -> None:
        self._output(text.embed_tokens, "text.embed_tokens")

        def embedded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "inputs_embeds": self._take("text.inputs_embeds", kwargs["inputs_embeds"])}

        self._input(text, embedded)

        def positions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, ids = args[0], kwargs.get("position_ids", args[-1])
            self.sink("text.position_ids", ids.expand(3, x.shape[0], -1))

        self._input(text.rotary_emb, positions)

        def turned(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> Any:
            return self._take("text.rope_cos", output[0]), self._take("text.rope_sin", output[1])

        self.stack.callback(text.rotary_emb.register_forward_hook(turned).remove)

        def mask(_args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = kwargs.get("attention_mask")
            if given is not None:  # sdpa omits the mask if it can; eager always has one
                self.sink("text.causal_mask", given == 0 if given.dtype.is_floating_point else given)

        self._input(text.layers[0], mask)
        for index, layer in enumerate(text.layers):
            prefix = f"text.layers.{index}."
            attn = layer.self_attn
            self._output(layer.input_layernorm, prefix + "input_norm")
            self._output(attn.q_norm, prefix + "attn.q_norm")
            self._output(attn.k_norm, prefix + "attn.k_norm")
            self._heads(attn.v_proj, prefix + "attn.v", attn.head_dim)
            self._attention(attn, prefix + "attn.", attn.o_proj)
            self._output(layer.post_attention_layernorm, prefix + "post_attention_norm")
            self._output(layer.mlp, prefix + "mlp.out")
            self._output(layer, prefix + "out")
        self._deepstack(text)
        self._output(text.norm, "text.norm")

        def rotated(result: Any, *_args: Any, **_kwargs: Any) -> Any:
            q, k = (tensor.transpose(1, 2) for tensor in result)  # (B, H, S, D) -> (B, S, H, D)
            q, k = self._take(self.attention + "q_rope", q), self._take(self.attention + "k_rope", k)
            return q.transpose(1, 2), k.transpose(1, 2)  # (B, S, H, D) -> (B, H, S, D)

        self._wrap(self.scope, "apply_rotary_pos_emb", rotated)

    def _heads(self, module: nn.Module, name: str, head_dim: int) -> None:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            heads = self._take(name, output.unflatten(-1, (-1, head_dim)))  # (B, S, K*D) -> (B, S, K, D)
            return heads.flatten(-2)  # (B, S, K, D) -> (B, S, K*D)

        self.stack.callback(module.register_forward_hook(hook).remove)

    def _deepstack(self, text: Any) -> None:
        """Capture ``_deepstack_process``, which runs after a layer has returned. Layers are counted."""
        layers_done: list[int] = []
        for index, layer in enumerate(text.layers):

            def done(_module: nn.Module, _args: Any, _output: Any, index: int = index) -> None:
                layers_done[:] = [index]

            self.stack.callback(layer.register_forward_hook(done).remove)
        self._wrap(
            text,
            "_deepstack_process",
            lambda result, *_a, **_k: self.sink(f"text.layers.{layers_done[0]}.deepstack", result),
        )
