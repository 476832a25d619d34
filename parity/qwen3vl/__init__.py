"""Qwen3-VL: its seams, cases, suite and engines."""
