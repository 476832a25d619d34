"""``parity signoff verify``: checks a record, and says what in it does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click

from parity.cli import console as view
from parity.core.errors import ParityError
from parity.milestones.keys import HERE, code_digest, versions
from parity.milestones.plan import Milestones
from parity.milestones.records import verify
from parity.milestones.records.sources import source_of

_SHOWN = 20


@dataclass(frozen=True)
class VerifyOptions:
    """The options of ``parity signoff verify``."""

    record: Path
    again: int
    seed: int
    checkout: Path | None
    milestones: Path | None
    allow_dirty: bool = False


def verify_record(options: VerifyOptions) -> int:
    """Run the command. Returns 1 if anything in the record does not hold, otherwise the exit code of its verdict."""
    record = verify.read_record(options.record)
    checkout = options.checkout or HERE
    if not (checkout / "parity").is_dir():
        raise ParityError(
            f"{checkout} is no checkout of the project: it has no folder parity; name one with --checkout"
        )
    faults = list(verify.changed(record))
    if not options.allow_dirty:
        faults += verify.dirty(record)
    lines: list[str] = []
    if not faults:
        milestones = verify.milestones_of(record, checkout, options.milestones)
        faults += verify.foreign(record, milestones, checkout)
        faults += verify.contradicted(record, milestones, today=date.today())
        if options.again and not faults:
            again = _again(record, milestones, options, checkout)
            faults += again[0]
            lines = again[1]
    return _say(record, faults, lines)


def _again(
    record: verify.Record, milestones: Milestones, options: VerifyOptions, checkout: Path
) -> tuple[list[str], list[str]]:
    if code_digest(checkout) != code_digest(HERE):
        raise ParityError(f"--again runs {HERE}, which is other code than {checkout}; run `parity` of that checkout")
    source = source_of(milestones, code=record.signed["subject"]["code"], versions=versions())
    faults, lines = [], []
    for item in verify.chosen_again(record, milestones, options.again, options.seed):
        found = list(verify.run_again(item, source, record.signed["evidence"][item.id]))
        faults += found
        lines.append(f"again: {item.id}: {'differs' if found else 'the same verdict and discrete figures'}")
    return faults, lines


def _say(record: verify.Record, faults: list[str], lines: list[str]) -> int:
    signed = record.signed
    with view.printing() as console:
        for line in lines:
            console.print(view.plain(line), soft_wrap=True)
        for fault in faults[:_SHOWN]:
            console.print(view.plain(f"- {fault}"), soft_wrap=True)
        if len(faults) > _SHOWN:
            console.print(f"- and {len(faults) - _SHOWN} more")
        subject = signed["subject"]
        if subject["clean"] is False and not faults:
            console.print(view.plain(f"the checkout had uncommitted changes: {'; '.join(subject['changes'])}"))
        if subject["clean"] is None:
            console.print("the state of the checkout is unknown: it was not made in a git checkout")
        if faults:
            console.print(view.plain(f"REFUSED  {record.path} does not hold: {faults[0]}"), soft_wrap=True)
            return 1
        click.echo(f"digest {signed['digest']}")
        click.echo("Compare it with the one that was signed: whoever changes a record can make new digests.")
        verdict = signed["verdict"]
        console.print(view.plain(f"VERIFIED  {verdict['label']}: {verdict['reason']}"), soft_wrap=True)
    code: int = signed["verdict"]["exit_code"]
    return code
