"""``parity bundle make``: makes a golden bundle from cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch

from parity.bundles.making import Recipe, make_bundle
from parity.cases.case import Case, SeededCheckpoint
from parity.cases.registry import chosen_cases
from parity.cases.standard import standard_suite
from parity.cli import console as view
from parity.cli.commands.run import SEEDED
from parity.cli.progress import progress_bar
from parity.core.errors import ParityError
from parity.runs.loader import Loader, named_checkpoint
from reports.staging import Staged

# Yardstick, four floor runs and the processor, for each dtype of a case.
_WORK = 6


@dataclass(frozen=True)
class MakeOptions:
    """The options of ``parity bundle make``. Sizes are in bytes."""

    model: str | None
    cases: tuple[str, ...]
    suite: bool
    dtypes: tuple[str, ...]
    out: Path
    with_checkpoint: bool
    checkpoint_limit: int
    limit: int | None
    threads: int | None


def make(options: MakeOptions) -> int:
    """Run the command. Nothing is left behind if the bundle cannot be made or is larger than the limit."""
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = _chosen(options)
    if options.out.exists():
        raise ParityError(f"{options.out} exists already; name a new folder, or remove it first")
    loader = Loader()
    recipe = Recipe(
        cases=cases,
        dtypes=tuple(dict.fromkeys(options.dtypes)),
        named=_named(options.model, loader),
        checkpoint_limit=options.checkpoint_limit if options.with_checkpoint else None,
    )
    with Staged(options.out, what="bundle") as staged:
        with progress_bar(_WORK * len(cases) * len(recipe.dtypes), quiet=False) as step:
            bundle = make_bundle(staged.work, recipe, loader, progress=step)
        size = sum(path.stat().st_size for path in staged.work.rglob("*") if path.is_file())
        if options.limit is not None and size > options.limit:
            raise ParityError(
                f"the bundle has {size / 1e6:.1f} MB, --limit is {options.limit / 1e6:.1f} MB; name fewer cases or "
                "dtypes, or raise the limit"
            )
    with view.printing():
        for left_out in bundle.document["left_out"]:
            click.echo(f"not in the bundle: {left_out['name']}; {left_out['why']}")
        count = len(bundle.cases)
        named = f"{count} case{'s' if count > 1 else ''}"
        click.echo(f"{view.harmless(str(options.out))}: {named}, {size / 1e6:.1f} MB")
        click.echo(f"sha256 {bundle.sha256}")
    return 0


def _chosen(options: MakeOptions) -> list[Case]:
    if options.suite == bool(options.cases):
        raise ParityError("name the cases with --case, or the whole suite with --suite, but not both")
    cases = standard_suite() if options.suite else chosen_cases(options.cases)
    return cases


def _named(model: str | None, loader: Loader) -> Path | None:
    if model is None:
        return None
    return loader.checkpoint(SeededCheckpoint()) if model == SEEDED else named_checkpoint(model)
