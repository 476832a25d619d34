"""Qwen3-VL, written from scratch in PyTorch."""

from port.config import Qwen3VLConfig, TextConfig, VisionConfig
from port.errors import ConfigError, InputError, PortError, WeightsError
from port.model import Inputs, Qwen3VL
from port.tap import listening
from port.weights import load_model

__all__ = [
    "ConfigError",
    "InputError",
    "Inputs",
    "PortError",
    "Qwen3VL",
    "Qwen3VLConfig",
    "TextConfig",
    "VisionConfig",
    "WeightsError",
    "listening",
    "load_model",
]
