"""The seams of the model's calls that are not a prefill and steps of one token: their logits.

They are optional: another engine need not have these calls, and bundles do not ask for them.
"""

from __future__ import annotations

from parity.core.trace import SeamKey
from parity.seams.spec import Expected, SeamSpec, label_key

SEVERAL = 3  # tokens that are fed at once
_LAYOUT = ("batch", "token", "vocabulary")

FORWARD = SeamSpec("forward.logits", _LAYOUT, "logits of the prefill", "output", rows="tokens")
LAST = SeamSpec("prefill_last.logits", ("batch", "vocabulary"), "the same, after the last real token", "output")
NEXT = SeamSpec("prefill_last.decode", _LAYOUT, "logits of the first decode step", "output")
CHUNKED = SeamSpec("prefill_last.chunked", ("batch", "vocabulary"), "as prefill_last.logits", "output")
AT_ONCE = SeamSpec("decode.several", _LAYOUT, "logits of the first decode steps", "output")
CALLS = (FORWARD, LAST, NEXT, CHUNKED, AT_ONCE)


def expected_call_seams() -> list[Expected]:
    """Return the values that a subject must give."""
    return [
        Expected(SeamKey(spec.name, 0), spec, "other calls", None if spec.rows is None else label_key(spec.rows, 0))
        for spec in CALLS
    ]
