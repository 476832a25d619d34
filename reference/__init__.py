"""The Hugging Face reference behind one door, and a maker of seeded checkpoints."""
