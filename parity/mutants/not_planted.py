"""Mistakes of real ports that have no mutant here, and why."""

_EXPERTS = "mixture of experts: the port builds dense models only"
_PREFIX = "prefix caching: the port keeps nothing from an earlier request"
_OLDER = "Qwen2.5-VL only"

NOT_PLANTED: dict[str, str] = {
    "toplevel-quant-config-ignored": "quantised checkpoints: the port loads float checkpoints only",
    "moe-experts-transposed": _EXPERTS,
    "moe-router-gate-not-loaded": _EXPERTS,
    "moe-router-weights-dtype": _EXPERTS,
    "moe-double-softmax-aux": "a training loss of mixture-of-experts models",
    "deepstack-moe-noop-append": f"{_EXPERTS}; the same mistake in a dense model is deepstack-not-injected",
    "moe-video-pixels-ignored": f"{_EXPERTS}; the same mistake in a dense model is video-token-mask-omitted",
    "vit-window-full-swapped": f"{_OLDER}: Qwen3-VL has no windows",
    "vit-attn-index-overflow": "needs more than 2^32 scores; its effect is planted as vit-nan-in-large-pictures",
    "mrope-time-interval-scales-start": f"{_OLDER}: the time interval of Qwen3-VL is 1",
    "mrope-interval-truncated": f"{_OLDER}: the time interval of Qwen3-VL is 1",
    "mrope-grids-lost-after-prefix-cache": _PREFIX,
    "mrope-trimmed-ids-vs-full-grids": _PREFIX,
    "mrope-prefix-tail-positions-from-zero": _PREFIX,
    "pixels-narrowed-by-image-count": _PREFIX,
    "mrope-interleaved-on-qwen2": "Qwen2-VL and Qwen2.5-VL only: Qwen3-VL does interleave",
    "kv-shift-mrope": "context shift: the port refuses a request that does not fit in its cache",
    "surplus-placeholder-misassign": "both sides refuse a prompt with more placeholders than pictures",
    "beam-repeats-patch-rows": "beam search: the port decodes greedily",
}
