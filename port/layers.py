"""Small layers that the vision tower and the language model share.

Shape legend
    ...   any leading dims
    C     channels in, O channels out
    T, P  temporal and spatial patch (kernel) size
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from port.errors import InputError
from port.kernels import PLAIN, PlainKernels
from port.kernels.plain import rotate_half, wide

__all__ = ["Conv3dNoBias", "Linear", "RMSNorm", "apply_rotary", "rotate_half", "table", "together", "wide"]


def table(rows: int, size: int) -> nn.Embedding:
    """An embedding (rows, size) without values.

    ``nn.Embedding(rows, size)`` alone would draw random values, which on the meta device imports torch's compiler.
    """
    return nn.Embedding(rows, size, _weight=torch.empty(rows, size))


class Linear(nn.Linear):
    """``nn.Linear`` with the model's kernels."""

    kernels: PlainKernels = PLAIN

    def forward(self, x: Tensor) -> Tensor:  # (..., C) -> (..., O)
        return self.kernels.linear(x, self.weight, self.bias)


def together(kernels: PlainKernels, x: Tensor, *layers: nn.Linear) -> list[Tensor]:
    """Several linear layers of the same x (..., C): one (..., O) each."""
    return kernels.linears(x, *[(layer.weight, layer.bias) for layer in layers])


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dim, in float32 or wider (arXiv:1910.07467)."""

    kernels: PlainKernels = PLAIN

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (..., size) -> (..., size)
        return self.kernels.rms_norm(x, self.weight, self.eps)


class Conv3dNoBias(nn.Module):
    """A 3-D convolution without bias whose stride equals its kernel: one matrix product.

    The weight is stored as the matrix (O, C*T*P*P) that the product needs. mistral.rs builds the same layer from two
    2-D convolutions, and saves and ties weights through its ``weight()`` accessor (added in 530463af1).
    """

    kernels: PlainKernels = PLAIN

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.in_channels = in_channels
        self.matrix = nn.Parameter(
            torch.empty(out_channels, in_channels * kernel_size[0] * kernel_size[1] * kernel_size[2])
        )

    def weight(self) -> Tensor:
        """The checkpoint's 5-D tensor (O, C, T, P, P), bit for bit. It is a view and uses no memory."""
        return self.matrix.view(-1, self.in_channels, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, D, H, W) -> (N, O, D//T, H//P, W//P), like ``torch.nn.Conv3d`` with stride = kernel."""
        n, channels, *size = x.shape
        if channels != self.in_channels or any(s < k for s, k in zip(size, self.kernel_size, strict=True)):
            raise InputError(
                f"Conv3dNoBias got (N, C, D, H, W) = {tuple(x.shape)}; it needs {self.in_channels} channels and at "
                f"least {self.kernel_size} in (D, H, W)"
            )
        (t, p, q) = self.kernel_size
        d, h, w = (s // k for s, k in zip(size, self.kernel_size, strict=True))
        x = x[:, :, : d * t, : h * p, : w * q]  # what is left over and does not fill a kernel is not read
        x = x.reshape(n, channels, d, t, h, p, w, q)  # (N, C, d, T, h, P, w, P)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (N, d, h, w, C, T, P, P)
        x = x.reshape(n, d, h, w, -1)  # (N, d, h, w, C*T*P*P)
        return self.kernels.linear(x, self.matrix).permute(0, 4, 1, 2, 3)  # (N, O, d, h, w)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + D/2) of x (..., D) by the angles of cos and sin, which broadcast against x."""
    return x * cos + rotate_half(x) * sin
