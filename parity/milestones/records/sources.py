"""Chooses where the evidence of a subject comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from parity.milestones.plan import Milestones
from parity.milestones.records.source import Source

if TYPE_CHECKING:
    from parity.milestones.runs import Look


def source_of(milestones: Milestones, *, code: str, versions: Mapping[str, str], look: Look | None = None) -> Source:
    """Return the source that fits the subject of a milestones file: runs of the port, or traces and a bundle.

    ``look`` gets every run of the port on a case.
    """
    if milestones.subject.evidence == "bundle":
        from parity.milestones.traces import BundleSource  # needs no torch

        return BundleSource(milestones.subject, code=code, versions=versions)
    from parity.milestones.runs import PortSource

    return PortSource(milestones, code=code, versions=versions, look=look)
