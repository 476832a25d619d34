"""Errors that a caller can cause. Each message says what is wrong, with the values, and what to do about it."""


class PortError(ValueError):
    """Base of everything that the port refuses."""


class ConfigError(PortError):
    """A file of a checkpoint, other than its weights, that is missing, broken or asks for what is not supported."""


class WeightsError(PortError):
    """A checkpoint whose tensors do not match the model."""


class InputError(PortError):
    """Conversations, media or tensors that cannot be processed, or do not fit each other."""
