"""Builds the document of margins over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.documents.base import document
from parity.milestones.history import LEAST, Run, Series, to_json


def history_document(
    runs: Sequence[Run],
    series: Sequence[Series],
    skipped: Sequence[Mapping[str, str]],
    *,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document. ``first`` is the first run in which a margin shrank by more than its noise."""
    lost = [line for line in series if line.shrank is not None]
    at = min((line.shrank for line in lost if line.shrank is not None), default=None)
    return document(
        "history",
        environment,
        runs=[
            {
                "folder": run.folder,
                "kind": run.kind,
                "created": run.created,
                "label": run.label,
                "commit": run.commit,
                "judged": run.judged,
            }
            for run in runs
        ],
        series=[to_json(line) for line in series],
        first=None if at is None else {"run": at, "series": [line.name for line in lost if line.shrank == at]},
        least_noise=LEAST,
        skipped=[dict(line) for line in skipped],
    )
