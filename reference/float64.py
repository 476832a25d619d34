"""The reference in true float64. All other runs are measured against it.

``model.double()`` is not enough: Hugging Face hard-codes float32 in both rotary embeddings, RMSNorm, softmax and
the interpolation of the position table, and keeps the rotary frequencies in float32. Inside ``true_float64`` these
parts also compute in float64. The change is made from outside and undone at the end; no file is edited.

Memory: parameters keep the dtype in which they were loaded. Small ones are converted to float64 for the whole scope,
each Linear only while it runs, and token embeddings after the lookup. The peak is the model plus its largest Linear
in float64.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from reference.errors import ReferenceModelError
from reference.model import ReferenceModel

_VISION_THETA = 10000.0


@contextmanager
def true_float64(reference: ReferenceModel) -> Iterator[None]:
    """Run every computation of the reference in float64 inside the block. The weights keep their loaded values.

    Not for concurrent use: ``Tensor.float`` and torch's default dtype are changed inside the block.
    Raises ReferenceModelError if the frequencies of a rotary embedding are not the expected ones.
    """
    with ExitStack() as stack:
        _lift_names(reference.model, stack)
        _lift_parameters(reference.model, stack)
        _lift_frequencies(reference, stack)
        yield


class _Float64Torch(ModuleType):
    """torch, but with ``float32`` replaced by ``float64``."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _lift_names(model: Any, stack: ExitStack) -> None:
    """Make float64 of everything that the reference's code calls float32."""
    proxy = _Float64Torch("torch")
    modules = [sys.modules[type(model).__module__]]
    if importlib.util.find_spec("transformers.vision_utils") is not None:
        modules.append(importlib.import_module("transformers.vision_utils"))
    for module in modules:
        stack.callback(setattr, module, "torch", module.torch)
        module.torch = proxy  # type: ignore[attr-defined]
    stack.callback(setattr, Tensor, "float", Tensor.float)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    # for linspace and other calls without a dtype
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def _lift_parameters(model: nn.Module, stack: ExitStack) -> None:
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    for module in model.modules():
        own = list(module.named_parameters(recurse=False))
        if module is embeddings:
            stack.callback(module.register_forward_hook(lambda _m, _a, output: output.double()).remove)
        elif isinstance(module, nn.Linear):
            stack.callback(module.register_forward_pre_hook(_lift).remove)
            stack.callback(module.register_forward_hook(_drop, always_call=True).remove)
        elif own:
            _lift(module)
            stack.callback(_drop, module)


def _lift(module: nn.Module, _arguments: object = None) -> None:
    """Replace a module's own parameters with float64 copies, and keep the originals."""
    module._loaded_parameters = dict(module._parameters)  # type: ignore[assignment]
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.double(), requires_grad=False)


def _drop(module: nn.Module, *_arguments: object) -> None:
    """Restore the original parameters."""
    module._parameters.update(module.__dict__.pop("_loaded_parameters", {}))


def _lift_frequencies(reference: ReferenceModel, stack: ExitStack) -> None:
    for module, exact in exact_frequencies(reference):
        stack.callback(setattr, module, "inv_freq", module.inv_freq)
        module.inv_freq = exact.to(module.inv_freq.device)


def exact_frequencies(reference: ReferenceModel) -> Iterator[tuple[Any, Tensor]]:
    """Each rotary embedding with its frequencies (D/2,) in float64.

    Raises ReferenceModelError if the embedding's own frequencies are others.
    """
    config, model = reference.config, reference.model.model
    text, vision = config.text_config, config.vision_config
    # transformers 5 has rope_parameters; 4.57 has rope_theta and rope_scaling
    parameters = getattr(text, "rope_parameters", None)
    theta = parameters["rope_theta"] if parameters else text.rope_theta
    pairs = [
        ("text", model.language_model.rotary_emb, text.head_dim, theta),
        ("vision", model.visual.rotary_pos_emb, vision.hidden_size // vision.num_heads // 2, _VISION_THETA),
    ]
    for name, module, dim, base in pairs:
        exact = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
        loaded = module.inv_freq
        if loaded.shape != exact.shape or not torch.allclose(loaded.cpu().double(), exact, rtol=1e-2, atol=0.0):
            raise ReferenceModelError(
                f"the {name} rotary embedding of this transformers version has frequencies {loaded.tolist()[:4]}, "
                f"expected {exact.tolist()[:4]}; a float64 yardstick would not match it, use another version"
            )
        yield module, exact
