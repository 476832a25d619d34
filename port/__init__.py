"""Qwen3-VL, written from scratch in PyTorch."""

from port.config import Qwen3VLConfig, TextConfig, VisionConfig
from port.errors import ConfigError, InputError, PortError, WeightsError
from port.generate import Step, generate, generate_all
from port.generation_config import GenerationConfig
from port.limits import Limits
from port.model import Inputs, Qwen3VL
from port.processor import Prepared, Processor
from port.tap import listening
from port.weights import load_model

__all__ = [
    "ConfigError",
    "GenerationConfig",
    "InputError",
    "Inputs",
    "Limits",
    "PortError",
    "Prepared",
    "Processor",
    "Qwen3VL",
    "Qwen3VLConfig",
    "Step",
    "TextConfig",
    "VisionConfig",
    "WeightsError",
    "generate",
    "generate_all",
    "listening",
    "load_model",
]
