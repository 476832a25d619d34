"""The few computations that decide how fast the model is, in a readable and in a fast form.

``plain`` is torch, as it reads in a paper. ``fast`` computes the same with what suits the machine. Layers call their
``kernels``; nothing else in the port knows which ones they are.
"""

from port.kernels.choice import KERNELS, kernels_of, made_kernels, set_kernels, use_kernels
from port.kernels.fast import FastKernels
from port.kernels.plain import PLAIN, Mask, PlainKernels

__all__ = [
    "KERNELS",
    "PLAIN",
    "FastKernels",
    "Mask",
    "PlainKernels",
    "kernels_of",
    "made_kernels",
    "set_kernels",
    "use_kernels",
]
