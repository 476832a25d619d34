"""Evidence from runs of the port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity.cases.case import Case
from parity.cases.registry import every_case
from parity.diagnosis.blind_spots import blind_spots
from parity.milestones.checks import CHECKS, check_components, shown_mistakes
from parity.milestones.keys import digest_json
from parity.milestones.plan import MISTAKES, Item, Milestones
from parity.milestones.records import evidence
from parity.milestones.records.evidence import Content
from parity.runs.case_run import CaseRun, run_case
from parity.runs.loader import Loader

Look = Callable[[Item, CaseRun], None]


class PortSource:
    """Runs the port on cases and checks. Checkpoints are loaded once while items of the same one follow each other."""

    def __init__(
        self,
        milestones: Milestones,
        *,
        code: str,
        versions: Mapping[str, str],
        loader: Loader | None = None,
        look: Look | None = None,
    ) -> None:
        """``look`` gets every run of a case. Raises ParityError for a mutant or component that does not exist."""
        check_components(item.detail for phase in milestones.phases for item in phase.items)
        self._loader, self._code, self._versions = loader or Loader(), code, dict(versions)
        self._cases = every_case()
        self._used: dict[str, str] = {}
        self._look = look

    def key(self, item: Item) -> dict[str, Any]:
        """Return what the evidence belongs to. Checkpoints that do not exist are made."""
        names = [item.name] if item.kind == "case" else item.detail.get("cases", [])
        cases = [self._cases[name] for name in names]
        return {
            "code": self._code,
            "checkpoint": [self._digest(case) for case in cases],
            "definition": digest_json([item.to_json(), *map(repr, cases)]),
            "dtype": item.dtype,
            **self._versions,
        }

    def _digest(self, case: Case) -> str:
        folder: Path = self._loader.checkpoint(case.checkpoint)
        self._used[case.checkpoint.label] = self._loader.digest(folder)
        return self._used[case.checkpoint.label]

    def checkpoints(self) -> Mapping[str, str]:
        return dict(self._used)

    def order(self, item: Item) -> str:
        """Items of one checkpoint run one after another, so that it is loaded once."""
        return self._cases[item.name].checkpoint.label if item.kind == "case" else ""

    def give(self, item: Item) -> Content:
        if item.kind == MISTAKES:
            return evidence.of_mistakes(shown_mistakes(item.detail))
        if item.kind == "check":
            return CHECKS[item.name](item.detail, self._loader)
        run = run_case(self._cases[item.name], self._loader, dtype=str(item.dtype))
        if self._look is not None:
            _shown(self._look, item, run)
        return evidence.of_findings(
            run.result.findings,
            error=run.result.error,
            loaded=run.result.loaded,
            blind_spots=_blind_spots(run),
            floor_runs=run.floor_runs,
        )


def _shown(look: Look, item: Item, run: CaseRun) -> None:
    """Show a run. What a wrong port gave may be impossible to draw; its case has failed already."""
    try:
        look(item, run)
    except Exception:
        if not _failed(run):
            raise


def _failed(run: CaseRun) -> bool:
    return run.result.error is not None or not all(finding.passed for finding in run.result.findings)


def _blind_spots(run: CaseRun) -> list[str] | None:
    """Return the known mistakes that the run could not have shown. None if the subject's error hides them."""
    try:
        return [spot["id"] for spot in blind_spots(run)]
    except Exception:
        # A port that is wrong may raise where the traits of the input are computed. Its case has failed already.
        if not _failed(run):
            raise
        return None
