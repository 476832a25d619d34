"""The works of every session, in their order. Needs no torch."""

WORK_NAMES = ("vision", "prefill", "decode", "decode-batch", "load")
