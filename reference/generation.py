"""What transformers' ``generate`` makes of a ``generation_config.json``: its logits processors, in their order.

Shape legend
    V   vocabulary
    S   tokens of a row so far, without padding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import logging as hf_logging

from reference.errors import ReferenceModelError
from reference.model import ReferenceModel
from reference.recording import recording

# The processors that can be compared, with the setting that each holds and the value that does nothing.
_PROCESSORS = {
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", "penalty", 1.0),
    "TemperatureLogitsWarper": ("temperature", "temperature", 1.0),
    "TopKLogitsWarper": ("top_k", "top_k", 0),
    "TopPLogitsWarper": ("top_p", "top_p", 1.0),
    "MinPLogitsWarper": ("min_p", "min_p", 0.0),
}
STEPS = tuple(name for name, _, _ in _PROCESSORS.values())


@dataclass(frozen=True)
class Sampler:
    """The logits processors of ``generate``, and when it stops.

    ``processors`` are by the name of their setting, in the order in which ``generate`` calls them. ``settings`` has
    every setting; one without a processor has the value that does nothing.
    """

    do_sample: bool
    processors: Mapping[str, Any]
    settings: Mapping[str, float]
    eos_token_ids: tuple[int, ...]
    max_new_tokens: int

    def apply(self, logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Return the logits (V,) of one row after each step of ``STEPS``, in the dtype of ``logits`` (V,).

        ``ids`` (S,) are the row's tokens so far. Tokens that a step removes are at -inf from there on. A step that is
        off returns what it got.
        """
        found, scores = {}, logits.unsqueeze(0)  # (1, V)
        for name in STEPS:
            if name in self.processors:
                scores = self.processors[name](ids.unsqueeze(0), scores)
            found[name] = scores[0]
        return found


class _Prepared(Exception):
    """``generate`` has prepared everything and would begin now."""


def sampler(model: ReferenceModel, folder: Path, *, max_new_tokens: int | None = None) -> Sampler:
    """Return what ``generate`` makes of the ``generation_config.json`` in ``folder``.

    ``generate`` itself prepares its processors; it is stopped before its first forward. Raises ReferenceModelError for
    a file that cannot be read, or that asks for a processor that is not known here.
    """
    inner = model.model
    prepared: list[Any] = []
    lists: list[Any] = []

    def stop(criteria: Any) -> None:
        lists.append(criteria)
        raise _Prepared

    before = inner.generation_config
    extra = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    ids = torch.zeros(1, 1, dtype=torch.long)
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # settings without effect are no news here
    try:
        inner.generation_config = GenerationConfig.from_pretrained(folder)
        with (
            recording(inner, "_prepare_generation_config", prepared.append),
            recording(inner, "_get_logits_processor", lists.append),
            recording(inner, "_get_stopping_criteria", stop),
        ):
            inner.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
    except _Prepared:
        pass
    except (OSError, ValueError, TypeError) as error:
        raise ReferenceModelError(f"the reference cannot use generation_config.json of {folder}: {error}") from error
    finally:
        inner.generation_config = before
        hf_logging.set_verbosity(verbosity)
    return _sampler(folder, prepared[0][0], *lists)


def _sampler(folder: Path, config: Any, processors: Sequence[Any], criteria: Sequence[Any]) -> Sampler:
    known: dict[str, Any] = {}
    settings = {setting: neutral for setting, _, neutral in _PROCESSORS.values()}
    for processor in processors:
        kind = type(processor).__name__
        if kind not in _PROCESSORS:
            raise ReferenceModelError(f"generation_config.json of {folder} asks for {kind}, which cannot be compared")
        setting, field, _ = _PROCESSORS[kind]
        known[setting], settings[setting] = processor, getattr(processor, field)
    if list(known) != [name for name in STEPS if name in known]:
        raise ReferenceModelError(f"generate calls its processors in the order {list(known)}, expected {list(STEPS)}")
    ends: tuple[int, ...] = ()
    most = 0
    for criterion in criteria:
        kind = type(criterion).__name__
        if kind == "EosTokenCriteria":
            ends = tuple(sorted(set(criterion.eos_token_id.flatten().tolist())))
        elif kind == "MaxLengthCriteria":
            most = criterion.max_length - 1  # the prompt has one token
        else:
            raise ReferenceModelError(f"generation_config.json of {folder} asks for {kind}, which cannot be compared")
    return Sampler(bool(config.do_sample), known, settings, ends, most)


def end_tokens(folder: Path) -> tuple[int, ...]:
    """Return the end tokens in the ``generation_config.json`` of a folder."""
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
