"""The ``parity`` command. Each subcommand imports what it needs when it runs, so that comparing needs no torch."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from parity.cli.errors import guarded

FOLDER = click.Path(path_type=Path)
DTYPE = click.Choice(["float32", "bfloat16", "float16"])
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
every_option = click.option("--every-seam", "every", is_flag=True, help="List every seam, also of parts that passed.")
threads_option = click.option("--threads", type=click.IntRange(min=1), help="Threads of the numeric library.")
out_option = click.option("--out", type=FOLDER, help="Folder of the report; default: a new one in parity-reports.")


def _text(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        (value or "").encode("utf-8")
    except UnicodeEncodeError:
        raise click.BadParameter("it is not valid UTF-8 text", param=parameter) from None
    return value


def _model(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; name a folder or a hub id, or leave it out", param=parameter)
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("qwen3vl-parity"), prog_name="parity")
def main() -> None:
    """Parity between ports of Qwen3-VL and the Hugging Face reference, seam by seam.

    Exit codes: 0 parity, 1 diverged, 2 usage or unreadable input, 3 incomplete evidence.
    """


@main.command()
@click.argument("model", required=False, callback=_model)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the prompt; may be repeated.")
@click.option("--video", "videos", type=FOLDER, multiple=True, help="A video for the prompt; may be repeated.")
@click.option("--prompt", callback=_text, help="The question.")
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Rows; the others vary row 0.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True)
@click.option("--case", help="A case of the standard suite instead of a prompt of your own.")
@click.option("--steps", type=click.IntRange(0, 256), help="Decode steps; default 4.")
@click.option("--chunk", type=click.IntRange(min=1), help="The subject prefills in chunks of so many tokens.")
@click.option("--padding-side", type=click.Choice(["left", "right"]), default="left", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the seeded checkpoint.")
@click.option("--timing/--no-timing", default=True, help="Whether to time both sides.")
@click.option("--traces", type=FOLDER, help="Keep the traces of all runs in this new folder.")
@out_option
@threads_option
@json_option
@every_option
@debug_option
def run(*, debug: bool, **options: Any) -> None:
    """Run the port beside the reference and judge every seam.

    MODEL is a checkpoint folder, a hub id, or the word "seeded": tiny random weights, and a real photo unless you
    give pictures. Without arguments: the small trained model is asked about a picture that it can understand.
    """

    def action() -> int:
        from parity.cli.run import RunOptions, run

        return run(RunOptions(**options))

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated. The rest counts as not run.")
@click.option("--phase", "phases", type=click.IntRange(1, 4), multiple=True, help="Only the cases of this phase.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True)
@out_option
@threads_option
@json_option
@debug_option
def suite(*, debug: bool, **options: Any) -> None:
    """Run the standard suite: every case, and a verdict for each phase of the integration."""

    def action() -> int:
        from parity.cli.suite import SuiteOptions, suite

        return suite(SuiteOptions(**options))

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("subject", type=FOLDER)
@click.argument("reference", type=FOLDER)
@click.option("--floor", "floors", type=FOLDER, multiple=True, help="A further correct run; may be repeated.")
@click.option("-m", "--multiple", type=click.FloatRange(min=1), help="Gate over floor; default: the project's.")
@json_option
@every_option
@debug_option
def compare(*, debug: bool, multiple: float | None, **options: Any) -> None:
    """Compare the trace folder SUBJECT with REFERENCE. Needs no torch."""

    def action() -> int:
        from parity.cli.compare import CompareOptions, compare_folders
        from parity.core.gates import DEFAULT_GATE, FloatGate

        gate = DEFAULT_GATE if multiple is None else FloatGate(m=multiple, ulps=DEFAULT_GATE.ulps)
        return compare_folders(CompareOptions(**options, gate=gate))

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("model", required=False, callback=_model)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the question; may be repeated.")
@click.option("--video", "videos", type=FOLDER, multiple=True, help="A video file, or a folder of frames.")
@click.option("--prompt", callback=_text, help="One question; without it, questions are read from the terminal.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Default: the checkpoint's, else 512.")
@click.option("--greedy", is_flag=True, help="Always the likeliest token, whatever generation_config.json says.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True))
@click.option("--top-k", type=click.IntRange(min=0))
@click.option("--top-p", type=click.FloatRange(0, 1))
@click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the sampling.")
@click.option("--chunk", type=click.IntRange(min=1), help="Prefill in chunks of so many tokens.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True)
@threads_option
@json_option
@debug_option
def chat(*, debug: bool, **options: Any) -> None:
    """Ask the port about pictures and videos; the answer is streamed, its speed comes last.

    MODEL is a checkpoint folder or a hub id. Without one: the small trained model, which knows nothing but the
    coloured shapes of `parity scenes`.
    """

    def action() -> int:
        from parity.cli.chat import ChatOptions, chat

        return chat(ChatOptions(**options))

    sys.exit(guarded(action, debug=debug, interrupted="interrupted"))


@main.command()
@click.argument("model", required=False, callback=_model)
@click.option("--prompt", callback=_text, default="How many legs has a spider?", show_default=True)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture, put before the prompt.")
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Tokens to generate.")
@json_option
@debug_option
def greedy(*, debug: bool, **options: Any) -> None:
    """Greedy tokens of the port beside those of mistral.rs (extra: engines) on one prompt."""

    def action() -> int:
        from parity.cli.greedy import greedy

        return greedy(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("model", required=False, callback=_model)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture file; may be repeated.")
@click.option("--video", "videos", type=FOLDER, multiple=True, help="A video file; may be repeated.")
@click.option("--rounds", type=click.IntRange(min=0), default=5, show_default=True, help="Timed runs of each side.")
@threads_option
@json_option
@debug_option
def processor(*, debug: bool, **options: Any) -> None:
    """The port's processor beside the reference's on your own files: every value on the way, and the speed."""

    def action() -> int:
        from parity.cli.processor import processor

        return processor(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("model", required=False, callback=_model)
@click.option("--pictures", type=click.IntRange(min=0), default=100, show_default=True, help="Held-out pictures.")
@click.option("--clips", type=click.IntRange(min=0), default=40, show_default=True, help="Held-out clips.")
@click.option("--seed", type=click.IntRange(min=0), default=20_000, show_default=True, help="Of the questions.")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(["reference", "port", "mistralrs"]),
    multiple=True,
    default=["reference", "port", "mistralrs"],
    help="Default: all three.",
)
@threads_option
@json_option
@debug_option
def sight(*, debug: bool, **options: Any) -> None:
    """Ask engines the same questions about held-out pictures and clips; four questions about each.

    MODEL is a checkpoint folder; without one, the small trained model.
    """

    def action() -> int:
        from parity.cli.sight import sight

        return sight(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--pictures", type=click.IntRange(min=0), default=8, show_default=True, help="Held-out pictures.")
@click.option("--clips", type=click.IntRange(min=0), default=4, show_default=True, help="Held-out clips.")
@click.option("--seed", type=click.IntRange(min=0), default=20_000, show_default=True, help="Of the questions.")
@debug_option
def scenes(*, debug: bool, **options: Any) -> None:
    """Write pictures and clips that the trained model never saw to FOLDER, with questions and right answers.

    `parity sight` asks the same of the engines that it can run; this is for all others.
    """

    def action() -> int:
        from parity.cli.scenes import scenes

        return scenes(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("models", nargs=-1)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the prompt.")
@click.option("--prompt", callback=_text)
@json_option
@debug_option
def activations(*, debug: bool, **options: Any) -> None:
    """How sure the logits are and how uneven the attention: the seeded checkpoint, the trained model, and MODELS."""

    def action() -> int:
        from parity.cli.activations import activations

        return activations(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.option(
    "--case", "cases", multiple=True, help="Only on this input (or all); may be repeated. Default: the smallest set."
)
@click.option("--mutant", "ids", multiple=True, help="Only this mistake; may be repeated.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@out_option
@json_option
@debug_option
def mutants(*, debug: bool, **options: Any) -> None:
    """Plant every known mistake in the port and see whether it is caught, and at the right seam."""

    def action() -> int:
        from parity.cli.mutants import mutants

        return mutants(**options)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("relation")
@click.option("--spec", required=True, help="The example as JSON, as a failing test prints it.")
@debug_option
def metamorphic(*, relation: str, spec: str, debug: bool) -> None:
    """Run one example of a relation that a correct port keeps without any reference."""

    def action() -> int:
        from parity.cli.metamorphic import metamorphic

        return metamorphic(relation, spec)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.option("--dtype", "dtypes", type=DTYPE, multiple=True, default=["float32"], help="May be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Checkpoints of each case.")
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated.")
@click.option("--out", type=FOLDER, default=Path("parity-reports/calibration"), show_default=True)
@json_option
@debug_option
def calibrate(*, debug: bool, **options: Any) -> None:
    """Measure what correct runs need: the smallest m without a false alarm."""

    def action() -> int:
        from parity.cli.calibrate import calibrate

        return calibrate(**options)

    sys.exit(guarded(action, debug=debug))


@main.group()
def trace() -> None:
    """Trace folders."""


@trace.command("check")
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@debug_option
def trace_check(*, folders: tuple[Path, ...], debug: bool) -> None:
    """Say exactly what is wrong with trace folders."""

    def action() -> int:
        from parity.cli.compare import check_folders

        return check_folders(folders)

    sys.exit(guarded(action, debug=debug))


@main.command()
@click.argument("report", type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder for the new files; default: beside report.json.")
@debug_option
def report(*, report: Path, out: Path | None, debug: bool) -> None:
    """Make CSV, Markdown and HTML again from a saved report.json (or the folder it lies in)."""

    def action() -> int:
        from parity.cli.console import printing
        from reports.write import render

        path = report / "report.json" if report.is_dir() else report
        files = render(path, out_dir=out)
        with printing():
            for made in files.values():
                click.echo(made)
        return 0

    sys.exit(guarded(action, debug=debug))


@main.command()
@json_option
@debug_option
def seams(*, as_json: bool, debug: bool) -> None:
    """List the seams: name, axes, gate, and where the reference has them."""

    def action() -> int:
        from parity.cli.listing import print_seams

        return print_seams(as_json=as_json)

    sys.exit(guarded(action, debug=debug))


@main.command()
@json_option
@debug_option
def cases(*, as_json: bool, debug: bool) -> None:
    """List the cases of the standard suite."""

    def action() -> int:
        from parity.cli.listing import print_cases

        return print_cases(as_json=as_json)

    sys.exit(guarded(action, debug=debug))


@main.group()
def checkpoint() -> None:
    """Seeded checkpoints."""


@checkpoint.command("make")
@click.argument("folder", type=FOLDER)
@click.option("--shape", default="tiny", show_default=True, help="tiny, tiny-tied, tiny-odd, 2b, 4b, 8b or 32b.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--tied/--untied", default=None, help="Default: as the shape.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True)
@click.option("--max-shard-bytes", type=click.IntRange(min=1), help="Write shards of at most so many bytes.")
@click.option("--layout", type=click.Choice(["published", "legacy"]), default="published", show_default=True)
@click.option("--lm-head-entry/--no-lm-head-entry", default=None, help="Whether a tied one has an lm_head.weight.")
@click.option(
    "--rope-dialect",
    type=click.Choice(["rope_scaling", "rope_parameters"]),
    default="rope_scaling",
    show_default=True,
)
@click.option("--depth", type=click.IntRange(min=1), help="At most so many layers and blocks.")
@debug_option
def checkpoint_make(*, folder: Path, debug: bool, **options: Any) -> None:
    """Make a seeded checkpoint in FOLDER, complete with tokenizer, processor configs and chat template."""

    def action() -> int:
        from parity.qwen3vl.workbench import make_seeded

        click.echo(make_seeded(folder, **options))
        return 0

    sys.exit(guarded(action, debug=debug))
