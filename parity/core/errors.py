"""Errors that end a comparison before it has a verdict."""


class ParityError(ValueError):
    """Wrong usage, or input that cannot be compared. The message says what is wrong and what to do."""


class TraceError(ParityError):
    """A trace that does not follow the trace format."""
