"""Parity suites: traces, floors, gates, cases and verdicts for ports of Qwen3-VL."""
