"""Evidence from an engine's traces, judged by a golden bundle. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.bundles.bundle import FLOORED, Bundle
from parity.bundles.judging import Judged, Selection, judge_folder
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.milestones.keys import digest_json, folder_digest
from parity.milestones.plan import Item, Subject
from parity.milestones.records import evidence
from parity.milestones.records.evidence import Content


class BundleSource:
    """Judges the traces of each case. Opening it checks the bundle and its digest."""

    def __init__(self, subject: Subject, *, code: str, versions: Mapping[str, str]) -> None:
        assert subject.bundle is not None
        assert subject.traces is not None
        self._bundle = Bundle(subject.bundle, sha256=subject.sha256)
        if not subject.traces.is_dir():
            raise ParityError(f"{subject.traces} is not a folder; `traces` names the folder with the engine's traces")
        self._traces = subject.traces
        self._common = {
            "code": code,
            "bundle": self._bundle.sha256,
            "traces": folder_digest(subject.traces),
            "numpy": versions["numpy"],
        }

    def key(self, item: Item) -> dict[str, Any]:
        return {**self._common, "definition": digest_json(item.to_json()), "dtype": item.dtype}

    def checkpoints(self) -> Mapping[str, str]:
        return {name: case.checkpoint for name, case in self._bundle.cases.items()}

    def order(self, _item: Item) -> str:
        return ""

    def give(self, item: Item) -> Content:
        if item.name not in self._bundle.cases:
            return evidence.missing(f"the bundle has no case {item.name}; it has {', '.join(self._bundle.cases)}")
        case = self._bundle.cases[item.name]
        if "model" in case.stages and item.dtype not in case.dtypes:
            return evidence.missing(
                f"the bundle has no floors for {item.name} in {item.dtype}; it has {', '.join(case.dtypes)}"
            )
        judged = judge_folder(self._bundle, self._traces, Selection(cases=[item.name]))
        # Traces of another dtype are evidence for another item.
        judged = [
            result
            for result in judged
            if result.case == item.name
            and (result.stage not in FLOORED or result.subject is None or result.subject.dtype == item.dtype)
        ]
        return self._content(item, judged, case.stages)

    def _content(self, item: Item, judged: Sequence[Judged], stages: Sequence[str]) -> Content:
        for stage in stages:
            found = [result for result in judged if result.stage == stage]
            absent = not found or any(result.subject is None for result in found)
            if absent:
                dtype = f" in {item.dtype}" if stage in FLOORED else ""
                return evidence.missing(f"{self._traces} has no {stage} trace of {item.name}{dtype}")
        refused = next((result for result in judged if result.reference is None), None)
        if refused is not None and refused.judgement.verdict is Verdict.INVALID:
            return evidence.of_error(f"{refused.stage}: {refused.judgement.reason}", side="setup")
        findings = [finding for result in judged for finding in result.findings]
        runs = [run for result in judged for run in result.floor_runs]
        return evidence.of_findings(findings, error=None, blind_spots=None, floor_runs=runs)
