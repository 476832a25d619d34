"""``parity bench``: how fast the port is, beside the reference and beside the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from parity.bench.check import accept, check, read_accepted, shipped
from parity.bench.machine import machine_class
from parity.bench.ratios import ClockName
from parity.bench.session import BenchSession, Measured, pieces, run_session
from parity.bench.works import SMALL, Sides, loaded_sides, sizes_of
from parity.cases.case import SeededCheckpoint
from parity.cli import console as view
from parity.cli.bench_options import BenchOptions
from parity.cli.command import finish, here
from parity.cli.progress import progress_bar
from parity.core.digest import checkpoint_digest
from parity.documents.bench import Settings, bench_document
from parity.engines.device import describe_device, use_device
from parity.engines.dtypes import stored_as
from parity.runs.loader import Loader
from parity.runs.named import named_checkpoint
from reference.trained import trained_checkpoint


def bench(given: BenchOptions) -> int:
    """Run the command. Without --check it gives no verdict."""
    if given.threads:
        torch.set_num_threads(given.threads)
    accepted = read_accepted(given.accepted or shipped()) if given.check else {}
    device = use_device(given.device, given.dtype)
    name, folder = _checkpoint(given)
    sides = loaded_sides(folder, given.dtype, given.kernels, device)
    judging = given.check or given.accept is not None
    clock: ClockName = given.clock or ("processor" if judging and device.type == "cpu" else "wall")
    settings = Settings(name, clock, machine_class(sides.model, threads=torch.get_num_threads(), clock=clock))
    session, digest = _measured(given, sides, clock), checkpoint_digest(folder)
    if given.accept is not None:
        accept(given.accept, settings.machine, digest, session.measured)
    checked = check(accepted, settings.machine, digest, session.measured) if given.check else None
    environment = here(threads=torch.get_num_threads(), device=describe_device(device))
    document = bench_document(session, sides, settings, checked=checked, environment=environment)
    return finish(document, lambda console: _show(console, document), as_json=given.as_json, out=given.out)


def _checkpoint(given: BenchOptions) -> tuple[str, Path]:
    if given.shape is not None:
        spec = SeededCheckpoint(shape=given.shape, dtype=stored_as(given.dtype))
        return f"seeded {given.shape}", Loader().checkpoint(spec)
    if given.model is None:
        return "the trained model", trained_checkpoint()
    return given.model, named_checkpoint(given.model)


def _measured(given: BenchOptions, sides: Sides, clock: ClockName) -> BenchSession:
    curves = given.curves and not given.check
    beside = given.beside is not None
    # A verdict on a large model takes many minutes, so it must be asked for.
    verdict = not given.check and sizes_of(sides.model) is SMALL if given.verdict is None else given.verdict
    total = pieces(sizes_of(sides.model), curves=curves, beside=beside, verdict=verdict)
    with progress_bar(total, quiet=given.as_json) as step:
        return run_session(
            sides,
            budget=given.seconds,
            curves=curves,
            clock=clock,
            progress=step,
            only=given.works,
            beside=beside,
            verdict=verdict,
            finished=_quiet if given.as_json else _say,
        )


def _quiet(_measured: Measured, _seconds: float) -> None:
    """With --json, nothing else is printed."""


def _say(measured: Measured, seconds: float) -> None:
    """Show a finished work at once: a session on a large model takes long, and may be interrupted."""
    ratio, noise = measured.ratio, measured.control.noise - 1
    click.echo(
        f"{measured.work.title}: {ratio.middle:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}], noise {noise:.1%}, "
        f"{ratio.pairs} pairs in {seconds:.0f} s",
        err=True,
    )


def _show(console: Console, document: dict[str, Any]) -> None:
    machine, limits = document["machine"], document["limits"]
    console.print(view.plain(machine["class"]), soft_wrap=True)
    console.print(
        f"matrix product {limits['product_gflops']:.0f} GFLOP/s, reading {limits['read_gbytes']:.1f} GB/s",
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("work", "port", "reference", "ratio", "interval", "noise", "of the limit"):
        table.add_column(title, justify="left" if title == "work" else "right")
    for work in document["works"]:
        ratio = work["ratio"]
        table.add_row(
            work["title"],
            *(f"{1e3 * work[side]:.1f} ms" for side in ("port", "reference")),
            f"{ratio['middle']:.2f} x",
            f"{ratio['low']:.2f} to {ratio['high']:.2f}",
            f"{work['noise']:.1%}",
            "" if work["of_limit"] is None else f"{work['of_limit']:.0%}",
        )
    for other in document["beside"]:
        ratio = other["ratio"]
        table.add_row(
            f"{other['title']}, beside {view.plain(other['engine'])}",
            *(f"{1e3 * other[side]:.1f} ms" for side in ("port", "other")),
            f"{ratio['middle']:.2f} x",
            f"{ratio['low']:.2f} to {ratio['high']:.2f}",
        )
    console.print(table)
    shares = [work["taps"]["of_port"] for work in document["works"] if work["taps"] is not None]
    if shares:
        console.print(f"taps that nobody listens to take at most {max(shares):.1%} of a work's time", soft_wrap=True)
    if (found := document["time_to_verdict"]) is not None:
        text = f"a verdict on {found['case']} takes {found['seconds']:.1f} s"
        console.print(f"{text}, {found['ratio']:.2f} times its {found['passes']} passes alone", soft_wrap=True)
    if "verdict" in document:
        console.print(view.verdict_line(document["verdict"]), soft_wrap=True)
