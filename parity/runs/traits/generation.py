"""Traits of generation: what the requests of a case contain that a mistake may need to become visible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from parity.runs.inputs import CaseInputs
from parity.runs.stages.generation_stage import FILE, GenerationStage, Planned

_DEFAULT_TOP_K = 50
_SURE = 0.95  # a token that is likelier than this is drawn nearly always


def generation_traits(stage: GenerationStage, inputs: CaseInputs) -> frozenset[str]:
    """The traits that mistakes in generation may need."""
    mask = inputs.tensors["attention_mask"]
    padded = bool((mask == 0).any())
    found = {
        "request": True,
        "padding": padded,
        "left": padded and bool((mask[:, 0] == 0).any()),
        "right": padded and bool((mask[:, -1] == 0).any()),
        "several rows": len(mask) > 1,
        "seeds": len({each.request.seed for each in stage.planned if each.sampler.do_sample}) > 1,
    }
    traits = {name for name, there in found.items() if there}
    for each in stage.planned:
        fields = json.loads((each.request.folder / FILE).read_text(encoding="utf-8"))
        vocabulary = each.tokens[0].logits.shape[-1]
        for part in (_choice(each, fields, vocabulary), _ends(each, fields), _text(each)):
            traits |= {name for name, there in part.items() if there}
    return frozenset(traits)


def _choice(each: Planned, fields: Mapping[str, Any], vocabulary: int) -> dict[str, bool]:
    """Traits of how a request chooses its tokens."""
    drawing, used = each.sampler.do_sample and _open(each), each.sampler.settings
    penalty = used["repetition_penalty"] != 1
    top_k, top_p = drawing and used["top_k"] > 0, drawing and used["top_p"] < 1
    given = {name for name, value in fields.items() if value is not None}
    return {
        "drawing": drawing,
        "greedy": not each.sampler.do_sample,
        "penalty": penalty,
        "reward": used["repetition_penalty"] < 1,
        "greedy penalty": penalty and not each.sampler.do_sample,
        "penalty of new tokens": penalty and len(each.tokens) > 1,
        "temperature": drawing and used["temperature"] != 1,
        "hot": drawing and used["temperature"] > 1,
        "top_k": top_k and used["top_k"] < vocabulary,
        "top_k above 1": top_k and 1 < used["top_k"] < vocabulary,
        "default top_k": drawing and "top_k" not in given and vocabulary > _DEFAULT_TOP_K,
        "no top_k": drawing and used["top_k"] == 0 and vocabulary > _DEFAULT_TOP_K,
        "top_p": top_p,
        # Only one token is left, so this draw is never open.
        "top_p 0": each.sampler.do_sample and used["top_p"] == 0,
        "top_k and top_p": top_k and 1 < used["top_k"] < vocabulary and top_p and used["top_p"] > 0,
        "min_p": drawing and used["min_p"] > 0,
        "idle settings": not each.sampler.do_sample and fields.get("temperature") not in (None, 1.0),
        "default do_sample": "do_sample" not in given,
        "default penalty": "repetition_penalty" not in given,
    }


def _open(each: Planned) -> bool:
    """Whether any token that is drawn could well have been another one."""
    return any(
        bool((token.decided.values["probabilities"].amax(dim=1) < _SURE)[~token.over].any()) for token in each.tokens
    )


def _ends(each: Planned, fields: Mapping[str, Any]) -> dict[str, bool]:
    """Traits of when the rows of a request end."""
    ends = set(each.sampler.eos_token_ids)
    lengths = {len(row) for row in each.rows}
    most, own = each.request.max_new_tokens, fields.get("max_new_tokens")
    pad = fields.get("pad_token_id")
    stopped = any(not row or row[-1] not in ends for row in each.rows)
    return {
        "several end tokens": len(ends) > 1,
        "padding token": pad is not None and pad not in ends,
        "mixed ends": len(lengths) > 1,
        "end token": any(row and row[-1] in ends for row in each.rows),
        "stopped by length": stopped,
        "several tokens": stopped and len(each.tokens) > 1,
        "two lengths": stopped and None not in (most, own) and most != own,
    }


def _text(each: Planned) -> dict[str, bool]:
    """Traits of the text that a request gives."""
    split = ["".join(row.pieces) != row.text for row in each.written]
    return {
        "text": any(row.text for row in each.written),
        "special tokens": any(row.with_special != row.text for row in each.written),
        "outer spaces": any(row.text != row.text.strip() for row in each.written),
        "split characters": any(split),
        "first space": any(row.pieces[0][:1].isspace() for row in each.written),
        "incomplete end": any(row.text.endswith("\ufffd") for row in each.written),
    }
