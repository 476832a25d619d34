"""The port's calls other than a prefill and steps of one token."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.engines.base import Sink, TensorMap
from parity.engines.dtypes import running_dtype
from parity.engines.port import VERSION
from parity.seams.calls import AT_ONCE, CHUNKED, FORWARD, LAST, NEXT
from port import Inputs, Qwen3VL

_CHUNK = 11


class PortCalls:
    """The port's model, asked for its logits in every way that it has."""

    name, detail = "port", VERSION

    def __init__(self, model: Qwen3VL) -> None:
        self.model = model

    @property
    def dtype(self) -> str:
        return running_dtype(self.model)

    @torch.no_grad()
    def calls(self, inputs: TensorMap, tokens: Tensor, sink: Sink) -> None:
        """Send the logits of each call to ``sink``. ``tokens`` (B, n) follow the prompts."""
        model = self.model
        given, tokens = Inputs(**inputs).to(model.device), tokens.to(model.device)
        batch, length = given.input_ids.shape
        sink(FORWARD.name, model(given))
        first, second = (model.new_cache(batch, length + tokens.shape[1]) for _ in range(2))
        sink(LAST.name, model.prefill_last(given, first))
        sink(NEXT.name, model.decode(tokens[:, :1], first))
        sink(CHUNKED.name, model.prefill_last(given, second, chunk=_CHUNK))
        sink(AT_ONCE.name, model.decode(tokens, second))
