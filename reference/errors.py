"""Errors of the reference's door."""


class ReferenceModelError(ValueError):
    """The reference cannot be loaded or read; the message names the thing and the way out."""
