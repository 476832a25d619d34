"""The dtypes that models run in, by the names that the commands use.

tf32: float32, whose products round their factors to 10 bits on a GPU, see ``parity.engines.device``.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Placed(Protocol):
    """A model on a device."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}


def stored_as(word: str) -> str:
    """Return the dtype in which a dtype of ``DTYPES`` is stored: tf32 -> float32."""
    return dtype_word(DTYPES[word])


def running_dtype(model: Placed) -> str:
    """Return the name of the dtype that a model runs in: tf32 for float32 on a GPU whose products use TF32."""
    tf32 = model.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if tf32 and model.dtype == torch.float32 else dtype_word(model.dtype)


def dtype_word(dtype: torch.dtype) -> str:
    """Return the name of a dtype: torch.float32 -> float32."""
    return str(dtype).removeprefix("torch.")
