"""Training a small Qwen3-VL that answers questions about the small world, with the reference and from a seed."""
