"""``generation_config.json``: how the next token is chosen, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from port.errors import ConfigError
from port.json_fields import Fields, is_integer, shown

FILE = "generation_config.json"
# Values with which a field does nothing; null does nothing either. Any other value would change the tokens, so it is
# refused, not ignored.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "diversity_penalty": (0,),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "renormalize_logits": (False,),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "use_mtp": (False,),
}
# Fields that do not change the tokens: other ids, caches, outputs, and settings of beams and assistants that are off.
_IDLE = frozenset(
    {
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "bos_token_id",
        "cache_config",
        "cache_implementation",
        "compile_config",
        "decoder_start_token_id",
        "disable_compile",
        "early_stopping",
        "is_assistant",
        "length_penalty",
        "low_memory",
        "max_cache_len",
        "max_length",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "pad_token_id",
        "return_dict_in_generate",
        "return_legacy_cache",
        "target_lookbehind",
        "transformers_version",
        "use_cache",
    }
)


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen, and when a row ends.

    ``temperature``, ``top_k``, ``top_p`` and ``min_p`` apply only with ``do_sample``; ``repetition_penalty`` always
    applies. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 and ``repetition_penalty`` 1 turn the setting off. A row ends with
    any of ``eos_token_ids``; without them, only the number of tokens ends it. ``max_new_tokens`` is used if the caller
    of ``generate`` does not give one. Raises ConfigError for a value outside its bounds.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    eos_token_ids: tuple[int, ...] = ()
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        most = self.max_new_tokens
        bounds = {
            "temperature": (0 < self.temperature < float("inf"), "above 0 (for greedy choice, set do_sample to false)"),
            "top_k": (self.top_k >= 0, "at least 0 (0 turns it off)"),
            "top_p": (0 <= self.top_p <= 1, "between 0 and 1 (1 turns it off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1 (0 turns it off)"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0 (1 turns it off)"),
            "max_new_tokens": (most is None or most >= 1, "at least 1"),
        }
        for name, (good, wanted) in bounds.items():
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {wanted}")

    @classmethod
    def from_folder(cls, folder: Path | str) -> GenerationConfig:
        """Read ``generation_config.json``. Missing fields have transformers' defaults (such as a top_k of 50).

        Raises ConfigError if the file is missing or broken, has no eos_token_id, or has a field that is not supported
        (beams, banned words, ...) or not known.
        """
        path = Path(folder) / FILE
        fields = Fields.read(path)
        _check_names(fields)
        do_sample = fields.flag("do_sample", default=False)
        top_k = fields.integer("top_k", minimum=0, default=50)
        numbers = {
            name: fields.number(name, default=default)
            for name, default in (("temperature", 1.0), ("top_p", 1.0), ("min_p", 0.0), ("repetition_penalty", 1.0))
        }
        ends = _eos_ids(fields)
        most = fields.integer("max_new_tokens") if fields.has("max_new_tokens") else None
        try:
            return cls(do_sample=do_sample, top_k=top_k, eos_token_ids=ends, max_new_tokens=most, **numbers)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def _check_names(fields: Fields) -> None:
    """Raise ConfigError for every field that would change the tokens and is not supported."""
    own = {*GenerationConfig.__dataclass_fields__, "eos_token_id"} - {"eos_token_ids"}
    for name, value in fields.raw.items():
        if value is None or name in own or name in _IDLE or name.startswith("_"):
            continue
        if name not in _WITHOUT_EFFECT:
            raise ConfigError(
                f"{fields.at(name)} is {shown(value)}; this field is not known and might change the tokens, remove it"
            )
        if value not in _WITHOUT_EFFECT[name]:
            raise ConfigError(
                f"{fields.at(name)} is {shown(value)}, which is not supported; remove it, or set it to "
                f"{_WITHOUT_EFFECT[name][0]!r}"
            )


def _eos_ids(fields: Fields) -> tuple[int, ...]:
    value = fields.value("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(is_integer(item, minimum=0) for item in ids):
        raise fields.wrong("eos_token_id", "an id or a list of ids")
    return tuple(ids)
