"""Traces and their comparison; knows nothing of Qwen3-VL, needs numpy and safetensors only."""
