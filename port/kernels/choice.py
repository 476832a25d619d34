"""Which kernels a model uses."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from port.errors import InputError
from port.kernels.fast import fast_kernels
from port.kernels.plain import PLAIN, PlainKernels

Choice = Literal["fast", "plain"]
KERNELS: tuple[Choice, ...] = get_args(Choice)


def made_kernels(choice: str) -> PlainKernels:
    """The kernels of a name in ``KERNELS``. Raises InputError for another name."""
    if choice not in KERNELS:
        raise InputError(f"kernels are {choice!r}; they must be one of {', '.join(KERNELS)}")
    return fast_kernels() if choice == "fast" else PLAIN


def use_kernels(model: nn.Module, choice: str) -> None:
    """Let every layer of a model compute with the kernels of a name in ``KERNELS``."""
    set_kernels(model, made_kernels(choice))


def set_kernels(model: nn.Module, kernels: PlainKernels) -> None:
    """Let every layer of a model compute with these kernels."""
    for module in model.modules():
        if hasattr(module, "kernels"):
            setattr(module, "kernels", kernels)  # noqa: B010 - the type of a module's attribute is not known


def kernels_of(model: nn.Module) -> PlainKernels:
    """The kernels that a model uses. All its layers use the same."""
    every = {getattr(module, "kernels", None) for module in model.modules()}
    (kernels,) = [kernels for kernels in every if isinstance(kernels, PlainKernels)]
    return kernels
