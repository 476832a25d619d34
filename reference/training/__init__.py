"""Trains a small Qwen3-VL from a seed to answer questions about the small world. The model is the reference's."""
