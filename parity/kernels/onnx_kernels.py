"""ONNX Runtime's kernels on the CPU: its products, softmax, layer norm and sums. Each is a graph of one node.

Shape legend: see ``base``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from parity.kernels.base import Kernels

_OPSET = 17


@cache
def _session(kind: str, ranks: tuple[int, ...], attributes: tuple[tuple[str, Any], ...] = ()) -> Any:
    """Return a session of one node with float32 inputs of these ranks."""
    names = [f"x{index}" for index in range(len(ranks))]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(rank)])
        for name, rank in zip(names, ranks, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(kind, names, ["y"], **dict(attributes))
    graph = helper.make_graph([node], kind, inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(kind: str, *tensors: Tensor, **attributes: Any) -> Tensor:
    session = _session(kind, tuple(tensor.ndim for tensor in tensors), tuple(sorted(attributes.items())))
    fed = {f"x{index}": tensor.numpy() for index, tensor in enumerate(tensors)}
    (out,) = session.run(None, fed)
    return torch.from_numpy(np.ascontiguousarray(out))


class OnnxKernels(Kernels):
    name = "ONNX Runtime"
    functions = {  # noqa: RUF012 - a constant of the class
        "exp": lambda x: _run("Exp", x),
        "cos": lambda x: _run("Cos", x),
        "sin": lambda x: _run("Sin", x),
        "silu": lambda x: x * _run("Sigmoid", x),
    }

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        return _run("MatMul", left, right)

    def sum_rows(self, rows: Tensor) -> Tensor:
        return _run("ReduceMean", rows, axes=(1,), keepdims=0) * rows.shape[1]

    def softmax(self, rows: Tensor) -> Tensor:
        return _run("Softmax", rows, axis=1)

    def layer_norm(self, rows: Tensor, eps: float) -> Tensor:
        ones = rows.new_ones(rows.shape[1])
        return _run("LayerNormalization", rows, ones, torch.zeros_like(ones), axis=1, epsilon=eps)
