"""Errors that end a comparison before there is a verdict."""


class ParityError(ValueError):
    """Usage or input that cannot be compared; the message names the thing and the way out."""


class TraceError(ParityError):
    """A trace folder that is not what the contract says."""
