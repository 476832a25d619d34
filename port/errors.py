"""Errors that a caller can cause; each names the thing, both values and the way out."""


class PortError(ValueError):
    """Base of everything that the port refuses."""


class ConfigError(PortError):
    """A file of a checkpoint, other than its weights, that is missing, broken or asks for what is not supported."""


class WeightsError(PortError):
    """A checkpoint whose tensors do not match the model."""


class InputError(PortError):
    """Token ids, masks, pixels or grids that do not fit each other."""
