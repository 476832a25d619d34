"""A device that is not there: tensors that say they are on cuda:0, while the CPU computes their numbers.

Whatever torch refuses between two devices is refused here too, and what needs the host's memory (``numpy``). So code
that makes a table on the CPU, or forgets to move a tensor, fails as on a GPU, and code that does not gives the same
numbers as on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda:0")
_MOVES = {"_to_copy", "copy_"}


class Mixed(RuntimeError):
    """Tensors of two devices in one operation."""


class PretendTensor(Tensor):
    """A tensor on the device. ``held`` (the same shape and strides) has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: Any, held: Tensor) -> PretendTensor:
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.held!r} on {DEVICE}"

    def __format__(self, spec: str) -> str:
        return format(self.held, spec)

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(f"can't convert {self.device} tensor to numpy. Use Tensor.cpu() first")


class _Everywhere(TorchDispatchMode):
    """Makes tensors on the device, and watches the operations that only have tensors of the CPU."""

    def __init__(self, without: frozenset[torch.dtype]) -> None:
        super().__init__()
        self._without = without

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = _computed(func, args, kwargs or {})
        for leaf in _tensors([out]) if self._without else ():
            if type(leaf) is PretendTensor and leaf.dtype in self._without:
                raise TypeError(f"{func}: the device has no {leaf.dtype}")
        return out


def _computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    given = list(_tensors((*args, *kwargs.values())))
    there = any(type(each) is PretendTensor for each in given)
    if there and name not in _MOVES:
        # A number of the CPU may go with tensors of any device.
        strangers = [tuple(each.shape) for each in given if type(each) is not PretendTensor and each.ndim]
        if strangers:
            raise Mixed(f"{func}: expected all tensors on {DEVICE}, but found tensors {strangers} on the cpu")
    if name == "_fused_sdp_choice":
        return 0  # no fused attention
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    named = {key: _held(value) for key, value in kwargs.items()}
    if wanted == DEVICE.type:
        named["device"] = "cpu"
    plain = [_held(value) for value in args]
    out = func(*plain, **named)
    if given and out is plain[0]:
        return args[0]  # changed in place
    to_device = there if wanted is None else wanted == DEVICE.type
    return _placed(out) if to_device else out


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _held(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_held, value))
    return value.held if type(value) is PretendTensor else value


def _placed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_placed, value))
    return PretendTensor(value) if isinstance(value, Tensor) else value


class _FromNumbers(TorchFunctionMode):
    """Lets ``torch.tensor`` make its tensor on the CPU and move it: it goes to a device unseen by dispatch modes."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.tensor and func is not torch.as_tensor:
            return func(*args, **kwargs)
        there = any(type(each) is PretendTensor for each in _tensors(args))
        device = kwargs.get("device") or (DEVICE if there else "cpu")
        return func(*_held(args), **{**kwargs, "device": "cpu"}).to(device)


@contextmanager
def pretending(*, without: frozenset[torch.dtype] = frozenset()) -> Iterator[None]:
    """Let this thread use the device inside the block. It computes in every dtype but those in ``without``."""
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    # ``Module.to`` must replace parameters: the old ones would get the address of a tensor that has no memory.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        # A tensor that holds another one cannot be made in inference mode.
        patch.setattr(torch, "inference_mode", torch.no_grad)
        try:
            with _Everywhere(without), _FromNumbers():
                yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
