"""Makes the evidence of a sign-off in whatever process it is called, and spreads it over several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.documents.pictures import keep_pictures
from parity.milestones.collect import Give, Given, every_item, file_name, give_one
from parity.milestones.keys import code_digest, versions
from parity.milestones.plan import Item, Milestones, milestones_of
from parity.milestones.records import evidence
from parity.milestones.records.source import Source
from parity.milestones.records.sources import source_of
from parity.workers import state
from parity.workers.base import Workers, run_tasks
from parity.workers.messages import WorkerLost

if TYPE_CHECKING:
    from parity.runs.case_run import CaseRun


def signoff_source(milestones: Milestones, folder: Path) -> Source:
    """Return what gives the evidence of a sign-off. Heat maps of cases go into its ``folder``."""
    return source_of(milestones, code=code_digest(), versions=versions(), look=_keeper(milestones, folder))


def spread_over(
    workers: Workers,
    source: Source,
    *,
    milestones: Path | None,
    folder: Path,
    threads: int,
    progress: Callable[[str], None],
) -> Give:
    """Return what makes evidence on workers of this machine, which write heat maps into ``folder``.

    An item whose worker ends each time has an error of the set-up for evidence.
    """

    def lost(task: Mapping[str, Any], error: WorkerLost) -> dict[str, Any]:
        return {"content": evidence.of_error(str(error), side="setup"), "seconds": 0.0}

    def give(items: Sequence[Item]) -> Iterator[Given]:
        tasks = [
            {
                "milestones": None if milestones is None else str(milestones),
                "folder": str(folder),
                "item": item.id,
                "threads": threads,
                "group": source.order(item),
                "label": item.id,
            }
            for item in items
        ]
        workers.watch(progress)
        for place, answer in run_tasks(workers, give_item, tasks, lost=lost):
            yield items[place], answer["content"], answer["seconds"]

    return give


def give_item(task: Mapping[str, Any]) -> dict[str, Any]:
    """Make the evidence of a task's item. Returns it with the seconds that it took."""
    state.say(task["label"])
    path = None if task["milestones"] is None else Path(task["milestones"])
    milestones = state.kept("milestones", lambda: milestones_of(path))
    if milestones.subject.evidence != "bundle":
        import torch  # a sign-off by a bundle needs none

        torch.set_num_threads(task["threads"])
    source = state.kept("source", lambda: signoff_source(milestones, Path(task["folder"])))
    item = next(item for item in every_item(milestones.phases) if item.id == task["item"])
    source.key(item)  # makes the checkpoint, if this process does not see the one that was made
    _, content, seconds = give_one(source, item)
    return {"content": content, "seconds": seconds}


def _keeper(milestones: Milestones, folder: Path) -> Callable[[Item, CaseRun], None] | None:
    """Return what keeps the heat maps of a run beside its evidence."""
    if milestones.subject.evidence == "bundle":
        return None
    from parity.diagnosis.heatmaps import heat_maps  # needs torch

    def keep(item: Item, run: CaseRun) -> None:
        maps = heat_maps(run.inputs, run.result.findings) if run.inputs is not None else []
        keep_pictures(maps, folder, item=item.id, stem=Path(file_name(item.id)).stem)

    return keep
