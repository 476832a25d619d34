"""The one error that this package raises for what a caller can get wrong."""

from __future__ import annotations


class ReportError(ValueError):
    """A report document, a picture or a folder cannot be used; the message says which one, and what to do."""
