"""Other correct arithmetic for a model: plain loops, numpy, JAX, ONNX Runtime, compiled loops. See ``base``."""
