"""Errors of the interface to the reference."""


class ReferenceModelError(ValueError):
    """The reference cannot be loaded or read; the message names the thing and the way out."""
