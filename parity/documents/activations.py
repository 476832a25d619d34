"""Builds the document of activations, with figures of several checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parity.diagnosis.activations import Activations
from parity.documents.base import document


def activations_document(found: Mapping[str, Activations], *, environment: Mapping[str, Any]) -> dict[str, Any]:
    return document("activations", environment, models={name: asdict(figures) for name, figures in found.items()})
