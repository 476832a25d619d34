"""Errors of the interface to the reference."""


class ReferenceModelError(ValueError):
    """The reference cannot be loaded or read. The message says what is wrong and how to fix it."""
