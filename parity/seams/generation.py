"""The seams of generation: from the logits after the last token to the next token, and to text.

A request is one call of ``generate``: a batch of prompts and a ``generation_config.json``. The call of a seam counts
over all requests of a case. After each token, both sides go on with the yardstick's logits, tokens and ends, so that
every step is judged on the same input.

``port.generate`` and ``port.sampling`` have taps with these names. For the axes see ``spec``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parity.core.trace import GateKind, SeamKey
from parity.seams.spec import Expected, SeamSpec

GROUP = "generation"
# The numbers of ``generation.settings``, in this order. Those that do nothing have the value that does nothing.
SETTINGS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
# Both sides go on with the yardstick's values of these.
FED = ("generation.logits", "generation.tokens", "generation.ended")
# Row r of a batch draws with a generator of its own, which is seeded with ``row_seed(seed, r)``.
_ROW_STRIDE = 0x5851F42D4C957F2D
_SEEDS = 2**63


def _spec(name: str, layout: str, where: str, gate: GateKind = "exact", group: str = GROUP) -> SeamSpec:
    return SeamSpec(f"generation.{name}", tuple(layout.split()), where, group, gate)


SETTINGS_SEAM = _spec("settings", "row", "GenerationConfig, as generate uses it")
EOS = _spec("eos_token_ids", "row", "EosTokenCriteria")
LOGITS = _spec("logits", "row vocabulary", "outputs.logits[:, -1]", "float", group="output")
PENALTY = _spec("repetition_penalty", "row vocabulary", "RepetitionPenaltyLogitsProcessor", "float")
TEMPERATURE = _spec("temperature", "row vocabulary", "TemperatureLogitsWarper", "float")
# Which tokens are left after a step.
KEPT = {
    "top_k": _spec("top_k", "row vocabulary", "TopKLogitsWarper"),
    "top_p": _spec("top_p", "row vocabulary", "TopPLogitsWarper"),
    "min_p": _spec("min_p", "row vocabulary", "MinPLogitsWarper"),
}
PROBABILITIES = _spec("probabilities", "row vocabulary", "softmax of the scores", "float")
TOKENS = _spec("tokens", "row", "argmax or torch.multinomial")
ENDED = _spec("ended", "row", "EosTokenCriteria and MaxLengthCriteria")
# Characters as code points, after their number.
TEXT = _spec("text.{}", "character", "tokenizer.decode of the new tokens of a row")
STREAM = _spec("stream.{}", "character", "the same text, put together from the pieces of a stream")


@dataclass(frozen=True)
class RequestPlan:
    """What is expected of one request: its batch, whether it draws, and the number of new tokens."""

    rows: int
    do_sample: bool
    tokens: int


def generation_specs() -> list[SeamSpec]:
    """Return every kind of seam of generation, in order. ``{}`` is the row of the batch."""
    return [
        *(SETTINGS_SEAM, EOS, LOGITS, PENALTY, TEMPERATURE),
        *(*KEPT.values(), PROBABILITIES, TOKENS, ENDED, TEXT, STREAM),
    ]


def token_specs(do_sample: bool) -> list[SeamSpec]:
    """Return the seams of one new token, in order. Warpers and probabilities are used only if tokens are drawn."""
    drawing = [TEMPERATURE, *KEPT.values(), PROBABILITIES] if do_sample else []
    return [LOGITS, PENALTY, *drawing, TOKENS, ENDED]


def expected_generation_seams(requests: Sequence[RequestPlan]) -> list[Expected]:
    """Return every value that both sides must give for these requests."""
    calls: dict[str, int] = {}
    found: list[Expected] = []

    def add(spec: SeamSpec, step: str, name: str | None = None, *, labelled: bool = False) -> None:
        key = SeamKey(name or spec.name, calls.get(name or spec.name, 0))
        calls[key.name] = key.call + 1
        found.append(Expected(key, spec, step, rows_of(key) if labelled else None))

    for number, request in enumerate(requests):
        which = f"request {number}"
        add(SETTINGS_SEAM, which)
        add(EOS, which)
        for token in range(1, request.tokens + 1):
            for spec in token_specs(request.do_sample):
                add(spec, f"{which}, token {token}", labelled=True)
        for row in range(request.rows):
            add(TEXT, which, TEXT.name.format(row))
            add(STREAM, which, STREAM.name.format(row))
    return found


def rows_of(key: SeamKey) -> SeamKey:
    """Return the key of the labels (B,) of a value's rows. Rows that have ended are padding."""
    return SeamKey(f"rows.{key.name}", key.call)


def row_seed(seed: int, row: int) -> int:
    """Return the seed of a row's generator."""
    return (seed + row * _ROW_STRIDE) % _SEEDS
