"""``parity bundle make``: makes a golden bundle from cases."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from parity.bundles.making import Recipe, make_bundle
from parity.cases.case import SeededCheckpoint
from parity.cli import console as view
from parity.cli.bundle_options import MakeOptions, chosen_of_bundle
from parity.cli.progress import progress_bar
from parity.cli.run_options import SEEDED
from parity.core.errors import ParityError
from parity.runs.loader import Loader
from parity.runs.named import named_checkpoint
from reports.staging import Staged

# Yardstick, four floor runs and the processor, for each dtype of a case.
_WORK = 6


def make(options: MakeOptions) -> int:
    """Run the command. Nothing is left behind if the bundle cannot be made or is larger than the limit."""
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = chosen_of_bundle(options)
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


def _named(model: str | None, loader: Loader) -> Path | None:
    if model is None:
        return None
    return loader.checkpoint(SeededCheckpoint()) if model == SEEDED else named_checkpoint(model)
