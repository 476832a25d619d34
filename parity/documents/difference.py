"""Builds the document of the difference of two records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.documents.base import document
from parity.milestones.records.difference import difference
from parity.milestones.records.verify import Record


def difference_document(before: Record, after: Record, *, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of what differs between two records."""
    return document("difference", environment, before=_side(before), after=_side(after), **difference(before, after))


def _side(record: Record) -> dict[str, Any]:
    signed = record.signed
    return {
        "record": str(record.path),
        "label": signed["verdict"]["label"],
        "created": signed["run"]["created"],
        "commit": signed["subject"]["commit"],
        "digest": signed["digest"],
    }
