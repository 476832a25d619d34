"""The dtypes that models run in, by the names that the commands use."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_word(dtype: torch.dtype) -> str:
    """Return the name of a dtype: torch.float32 -> float32."""
    return str(dtype).removeprefix("torch.")
