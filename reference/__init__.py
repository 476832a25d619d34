"""One interface to Hugging Face's Qwen3-VL, and a maker of seeded checkpoints."""
