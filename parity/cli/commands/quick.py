"""``parity quick``: the port on one case, judged by a bundle that is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from parity.cases.case import Case
from parity.cli import console as view
from parity.milestones.quick import CASE, DTYPE, Quick, bundle_folder, check, kept_bundle
from parity.runs.seeded import cache_folder

_SHOWN = 8


def quick(*, as_json: bool) -> int:
    """Run the command. Returns the exit code of the verdict."""
    start = time.perf_counter()
    bundle = kept_bundle(bundle_folder(cache_folder()), _make)
    found = check(bundle)
    return _say(found, time.perf_counter() - start, as_json=as_json)


def _make(case: Case, folder: Path) -> None:
    from parity.bundles.making import Recipe, make_bundle  # runs the reference, which takes a while
    from parity.runs.loader import Loader
    from reports.staging import Staged

    click.echo("the first check makes a bundle with the reference, which takes about a minute; it is kept", err=True)
    with Staged(folder, what="bundle") as staged:
        recipe = Recipe(cases=[case], dtypes=(DTYPE,), named=None, checkpoint_limit=2**30)
        make_bundle(staged.work, recipe, Loader())


def _say(found: Quick, seconds: float, *, as_json: bool) -> int:
    judgement = found.judgement
    failing = [finding for finding in found.findings if not finding.passed]
    verdict = {
        "value": judgement.verdict.name, "exit_code": judgement.verdict.exit_code, "reason": judgement.reason
    }  # fmt: skip
    with view.printing() as console:
        if as_json:
            lines = [f"{finding.entry.key} {finding.status}" for finding in failing]
            click.echo(json.dumps({"case": CASE, "verdict": verdict, "failing": lines, "seconds": round(seconds, 3)}))
        else:
            for finding in failing[:_SHOWN]:
                ratio = "" if finding.ratio is None else f", {finding.ratio:.3g} times the gate"
                text = f"{finding.entry.key.name} ({finding.entry.step}): {finding.status}{ratio}"
                console.print(view.plain(text), soft_wrap=True)
            console.print(view.verdict_line(verdict), soft_wrap=True)
            console.print(f"{judgement.seams_compared} seams of the case {CASE} in {seconds:.1f} s; not a sign-off")
    return judgement.verdict.exit_code
