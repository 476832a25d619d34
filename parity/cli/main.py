"""The ``parity`` command. Each subcommand imports what it needs when it runs, so that comparing needs no torch.

Options are checked first, by modules that need no torch either: a usage error is shown at once.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from parity.bench.names import WORK_NAMES
from parity.cli.command import SectionedGroup, subcommand
from parity.cli.options import (
    DTYPE,
    FOLDER,
    MODEL_DTYPE,
    SIZE,
    annotations_option,
    device_option,
    every_option,
    json_option,
    model_argument,
    out_option,
    prompt_option,
    save_option,
    shard_option,
    text,
    threads_option,
)
from parity.cli.record_commands import add_record_commands
from parity.cli.workers import fresh_option, workers_option, workers_options
from parity.engines.registry import FOREIGN, NAMES
from parity.kernels.registry import KERNELS
from parity.milestones.phases import PHASES
from parity.workers.choose import check_workers

_PHASE = click.IntRange(min(PHASES), max(PHASES))
_SHOWN_SEED = 20_000  # seed of exam questions; training uses other seeds
_sha256_option = click.option(
    "--sha256",
    metavar="HEX",
    help="The digest that the bundle must have, as its maker published it. Whoever changes a bundle can make new "
    "digests, so only this shows that it is the same bundle.",
)


_expect_option = click.option(
    "--expect",
    metavar="full|coarse|logits|FILE",
    default="full",
    show_default=True,
    help="What the traces of the model promise to give: every seam; the ends of blocks and layers; the logits; or the "
    "seams that a file names, one on each line.",
)
_tokens_option = click.option(
    "--tokens",
    type=FOLDER,
    help="Instead of SUBJECT: a JSONL file of tokens and log-probabilities, of one case.",
)
_layout_option = click.option("--layout", type=FOLDER, help="A JSON file that maps the engine's own names and axes.")


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("qwen3vl-parity"), prog_name="parity")
def main() -> None:
    """Parity between ports of Qwen3-VL and the Hugging Face reference, seam by seam.

    Exit codes: 0 parity, 1 diverged, 2 usage or unreadable input, 3 incomplete evidence.
    """


@subcommand(main, section="judge")
@model_argument
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the prompt; may be repeated.")
@click.option(
    "--video",
    "videos",
    type=FOLDER,
    multiple=True,
    help="A video for the prompt, or a folder of its frames; may be repeated.",
)
@prompt_option
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Rows; row 0 is the prompt.")
@click.option("--dtype", type=MODEL_DTYPE, default="float32", show_default=True)
@device_option
@click.option("--case", help="Run a case by name (see `parity cases`) instead of your own prompt.")
@click.option("--steps", type=click.IntRange(0, 256), help="Decode steps; default: 4.")
@click.option("--chunk", type=click.IntRange(min=1), help="Prefill the subject in chunks of this many tokens.")
@click.option("--padding-side", type=click.Choice(["left", "right"]), default="left", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the checkpoint.")
@click.option("--timing/--no-timing", default=True, help="Whether to time both sides.")
@click.option("--traces", type=FOLDER, help="Keep the traces of all runs in this new folder.")
@click.option(
    "--cache",
    type=FOLDER,
    help="Keep yardsticks in this folder, and use one of an earlier run if case, checkpoint, code, versions and "
    "machine are the same. At most 20 GiB.",
)
@out_option
@threads_option
@json_option
@every_option
def run(**options: Any) -> int:
    """Run the port beside the reference and judge every seam.

    MODEL is a checkpoint folder, a hub id, or the word "seeded" for tiny random weights. With "seeded", the prompt has
    a real photo unless you give pictures. Without arguments, the small trained model is asked about a picture.
    """
    from parity.cli.checks import check_device, check_model
    from parity.cli.run_options import SEEDED, RunOptions, chosen_case

    given = RunOptions(**options)
    chosen_case(given)
    check_device(given.device, given.dtype)
    if given.model != SEEDED:
        check_model(given.model)
    from parity.cli.commands.run import run

    return run(given)


@subcommand(main, section="judge", interrupted="interrupted; finished cases are kept, go on with the same --out folder")
@click.option("--case", "cases", multiple=True, help="Run only this case; may be repeated.")
@click.option(
    "--phase",
    "phases",
    type=click.IntRange(min(PHASES), max(PHASES)),
    multiple=True,
    help="Run only the cases of this phase.",
)
@click.option("--dtype", type=MODEL_DTYPE, default="float32", show_default=True)
@device_option
@out_option
@fresh_option
@workers_options
@shard_option
@annotations_option
@threads_option
@json_option
def suite(**options: Any) -> int:
    """Run the standard suite. Gives a verdict for each phase of the integration.

    If you select cases or phases, the others count as not run. Cases that an earlier run into the same folder has
    finished are not run again, unless code, checkpoint, case, options or versions have changed.
    """
    from parity.cases.standard import standard_suite
    from parity.cli.checks import check_device
    from parity.cli.suite_options import SuiteOptions, chosen_of_suite

    given = SuiteOptions(**options)
    check_device(given.device, given.dtype)
    chosen_of_suite(standard_suite(), given)
    from parity.cli.commands.suite import suite

    return suite(given)


@subcommand(
    main,
    section="judge",
    cls=click.Group,
    invoke_without_command=True,
    interrupted="interrupted; finished items are kept, go on with --reuse",
)
@click.option("--milestones", type=FOLDER, help="A milestones file of your own; default: those of the project's port.")
@click.option("--phase", "phases", type=click.IntRange(min=1), multiple=True, help="Sign off only this phase.")
@out_option
@click.option("--reuse", type=FOLDER, help="The folder of an earlier sign-off; what is fresh in it is not run again.")
@click.option("--junit", type=FOLDER, help="Also write JUnit XML to this file.")
@click.option("--summary", type=FOLDER, help="Append the report in Markdown to this file, as for GITHUB_STEP_SUMMARY.")
@annotations_option
@workers_option
@shard_option
@threads_option
@json_option
def signoff(**options: Any) -> int:
    """Sign off milestones, with a record that others can check.

    Each milestone has a list of what it must pass. Exit codes: 0 all signed off, 1 one is refused, 2 the set-up is
    invalid, 3 something required did not run.
    """
    from parity.cli.signoff_options import SignoffOptions, check_signoff

    given = SignoffOptions(**options)
    check_signoff(given)
    from parity.cli.commands.signoff import signoff

    return signoff(given)


assert isinstance(signoff, click.Group)


@subcommand(signoff, name="verify")
@click.argument("record", type=FOLDER)
@click.option("--again", type=click.IntRange(min=0), default=0, show_default=True, help="Run random items again.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of their choice.")
@click.option("--checkout", type=FOLDER, help="The checkout that the record must be of; default: this installation.")
@click.option("--milestones", type=FOLDER, help="The milestones file of the record, if it is not the standard one.")
@click.option("--allow-dirty", is_flag=True, help="Accept a record of a checkout with uncommitted changes.")
def signoff_verify(**options: Any) -> int:
    """Check RECORD: its digests, every verdict from the figures in it, and that it is of the checkout.

    Exit codes: 1 if anything does not hold, otherwise those of the sign-off.
    """
    from parity.cli.commands.signoff_verify import VerifyOptions, verify_record

    return verify_record(VerifyOptions(**options))


@subcommand(main, section="judge")
@click.argument("subject", type=FOLDER)
@click.argument("reference", type=FOLDER)
@click.option("--floor", "floors", type=FOLDER, multiple=True, help="A further correct run; may be repeated.")
@click.option("-m", "--multiple", type=click.FloatRange(min=1), help="The gate's m; default: the project's m.")
@save_option
@json_option
@every_option
def compare(**options: Any) -> int:
    """Compare the trace folder SUBJECT with REFERENCE. Needs no torch.

    The verdict is only as good as the floors that you pick. `parity judge` takes them from a golden bundle.
    """
    from parity.cli.commands.compare import CompareOptions, compare_folders

    return compare_folders(CompareOptions(**options))


@subcommand(main, section="judge")
@click.argument("bundle", type=FOLDER)
@click.argument("subject", type=FOLDER, required=False)
@_tokens_option
@click.option("--case", "cases", multiple=True, help="Judge only this case; may be repeated. Default: every case.")
@click.option(
    "--stage",
    "stages",
    type=click.Choice(["processor", "model", "generation"]),
    multiple=True,
    help="Judge only this stage; may be repeated. Default: both.",
)
@click.option("--dtype", type=DTYPE, help="The dtype that the subject must have; default: any that has floors.")
@_sha256_option
@_expect_option
@_layout_option
@save_option
@json_option
@every_option
def judge(**options: Any) -> int:
    """Judge SUBJECT by the golden bundle BUNDLE. Needs no torch and no reference.

    SUBJECT is a trace folder, or a folder with one for each case and stage, such as CASE/subject and
    CASE/subject-processor. The traces name their cases; if a trace's case is not in the bundle, --case names it.
    """
    from parity.cli.commands.judge import JudgeOptions, judge_subject

    return judge_subject(JudgeOptions(**options))


@subcommand(main, section="judge")
@click.argument("bundle", type=FOLDER)
@click.argument("subject", type=FOLDER, required=False)
@click.option(
    "--tokens",
    type=FOLDER,
    multiple=True,
    help="Instead of SUBJECT: a JSONL file of tokens and log-probabilities, of one case; may be repeated.",
)
@click.option(
    "--case",
    "cases",
    multiple=True,
    help="Diagnose only this case; may be repeated. Default: every case, or those that the tokens name.",
)
@click.option(
    "--stage", "stages", type=click.Choice(["processor", "model", "generation"]), multiple=True, help="Only this stage."
)
@click.option("--dtype", type=DTYPE, help="The dtype that the subject must have; default: any that has floors.")
@click.option(
    "--checkpoint",
    "checkpoints",
    type=FOLDER,
    multiple=True,
    help="The folder of a checkpoint that the bundle does not hold; may be repeated.",
)
@_sha256_option
@_expect_option
@_layout_option
@save_option
@threads_option
@json_option
@click.option("--power", is_flag=True, help="Say how many known mistakes the evidence would have shown.")
@click.option(
    "--ask",
    type=click.Choice([*FOREIGN, "server"]),
    help="With --tokens: ask this engine about the cases that tell mistakes apart.",
)
@click.option("--url", help="With --ask server: its address, such as http://127.0.0.1:8080.")
def diagnose(**options: Any) -> int:
    """Name the known mistakes that explain what SUBJECT gave, judged by the golden bundle BUNDLE.

    Each known mistake is planted in the port, which runs on the same inputs. A mistake is named if the port with it
    gives what SUBJECT gave, within rounding, at every seam. Otherwise the nearest one is shown, and is not the cause.
    The exit code is that of `parity judge`.
    """
    from parity.bundles.bundle import Bundle

    Bundle(options["bundle"], sha256=options["sha256"])  # a usage error is shown without importing torch
    from parity.cli.commands.diagnose import DiagnoseOptions, diagnose_subject

    return diagnose_subject(DiagnoseOptions(**options))


@subcommand(main, section="judge")
@click.argument("name", type=click.Choice([*FOREIGN, "server"]))
@click.argument("bundle", type=FOLDER)
@click.option("--case", "cases", multiple=True, help="The case to ask about; default: the bundle's only one.")
@click.option("--url", help="Address of a server that follows the OpenAI protocol, such as http://127.0.0.1:8080.")
@click.option("--model", default="default", show_default=True, help="The name that the server knows the model by.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds for an answer."
)
@click.option("--checkpoint", type=FOLDER, help="The folder of the checkpoint, if the bundle does not hold it.")
@click.option("--tokens", type=FOLDER, required=True, help="The new JSONL file for the engine's tokens.")
@_sha256_option
@save_option
@json_option
def engine(**options: Any) -> int:
    """Ask the engine NAME the question of a case of BUNDLE, and judge its tokens and log-probabilities.

    NAME is an engine that is installed here, or "server": one that runs already, such as mistralrs serve or vLLM.
    """
    from parity.cli.commands.engine import EngineOptions, ask_engine

    return ask_engine(EngineOptions(**options))


@subcommand(main, section="judge")
@model_argument
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture file; may be repeated.")
@click.option(
    "--video", "videos", type=FOLDER, multiple=True, help="A video file, or a folder of its frames; may be repeated."
)
@click.option("--rounds", type=click.IntRange(min=0), default=5, show_default=True, help="Timed runs of each side.")
@save_option
@threads_option
@json_option
def processor(**options: Any) -> int:
    """Compare the port's processor with the reference's on your own files: every value, and the speed."""
    from parity.cli.checks import check_model, check_something

    check_something(bool(options["images"] or options["videos"]), what="process", options="--image or --video")
    check_model(options["model"])
    from parity.cli.commands.processor import processor

    return processor(**options)


@subcommand(main, section="judge")
@model_argument
@click.option("--prompt", callback=text, default="How many legs has a spider?", show_default=True)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture, put before the prompt.")
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Tokens to generate.")
@click.option("--engine", "name", type=click.Choice(FOREIGN), default=FOREIGN[0], show_default=True)
@save_option
@json_option
def greedy(**options: Any) -> int:
    """Compare the port's greedy tokens with another engine's on one prompt (extra: engines)."""
    from parity.cli.checks import check_model

    check_model(options["model"])
    from parity.cli.commands.greedy import greedy

    return greedy(**options)


@subcommand(main, section="judge")
@model_argument
@click.option("--pictures", type=click.IntRange(min=0), default=100, show_default=True, help="Held-out pictures.")
@click.option("--clips", type=click.IntRange(min=0), default=40, show_default=True, help="Held-out clips.")
@click.option("--seed", type=click.IntRange(min=0), default=_SHOWN_SEED, show_default=True, help="Seed of questions.")
@click.option("--engine", "names", type=click.Choice(NAMES), multiple=True, default=NAMES, help="Default: all.")
@save_option
@threads_option
@json_option
def exam(**options: Any) -> int:
    """Ask engines the same questions about held-out pictures and clips, four about each.

    MODEL is a checkpoint folder; default: the small trained model.
    """
    from parity.cli.checks import check_model, check_something

    check_something(options["pictures"] + options["clips"] > 0, what="ask about", options="--pictures or --clips")
    check_model(options["model"])
    from parity.cli.commands.exam import exam

    return exam(**options)


@subcommand(main, section="judge")
@click.argument("relation")
@click.option("--spec", required=True, help="The example as JSON, as a failing test prints it.")
def metamorphic(**options: Any) -> int:
    """Run one example of a relation that a correct port keeps. Needs no reference."""
    from parity.cli.commands.metamorphic import metamorphic

    return metamorphic(**options)


@subcommand(main, section="make")
@click.argument("folder", type=FOLDER)
@click.option("--pictures", type=click.IntRange(min=0), default=8, show_default=True, help="Held-out pictures.")
@click.option("--clips", type=click.IntRange(min=0), default=4, show_default=True, help="Held-out clips.")
@click.option("--seed", type=click.IntRange(min=0), default=_SHOWN_SEED, show_default=True, help="Seed of questions.")
def scenes(**options: Any) -> int:
    """Write held-out pictures and clips to FOLDER, with questions and right answers.

    `parity exam` asks the same questions, but only of engines that it can run. Use this for other engines.
    """
    from parity.cli.checks import check_something

    check_something(options["pictures"] + options["clips"] > 0, what="write", options="--pictures or --clips")
    from parity.cli.commands.scenes import scenes

    return scenes(**options)


@main.group()
def checkpoint() -> None:
    """Make seeded checkpoints."""


@subcommand(checkpoint, name="make")
@click.argument("folder", type=FOLDER)
@click.option("--shape", default="tiny", show_default=True, help="tiny, tiny-tied, tiny-odd, 2b, 4b, 8b or 32b.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--tied/--untied", default=None, help="Whether the head is tied; default: as in the shape.")
@click.option("--dtype", type=DTYPE, default="float32", show_default=True)
@click.option("--max-shard-bytes", type=click.IntRange(min=1), help="Write shards of at most this many bytes.")
@click.option("--layout", type=click.Choice(["published", "legacy"]), default="published", show_default=True)
@click.option("--lm-head-entry/--no-lm-head-entry", default=None, help="Whether to store a tied lm_head.weight.")
@click.option(
    "--rope-dialect",
    type=click.Choice(["rope_scaling", "rope_parameters"]),
    default="rope_scaling",
    show_default=True,
)
@click.option("--depth", type=click.IntRange(min=1), help="Largest number of layers and blocks.")
def checkpoint_make(*, folder: Path, **options: Any) -> int:
    """Make a seeded checkpoint in FOLDER, complete with tokenizer, processor configs and chat template."""
    from parity.runs.seeded import make_seeded

    click.echo(make_seeded(folder, **options))
    return 0


@main.group()
def bundle() -> None:
    """Make, check and show golden bundles, by which any engine can be judged."""


@subcommand(bundle, name="make", interrupted="interrupted; no bundle was written")
@model_argument
@click.option("--case", "cases", multiple=True, help="A case of `parity cases`; may be repeated.")
@click.option("--suite", is_flag=True, help="Every case of the standard suite.")
@click.option(
    "--dtype",
    "dtypes",
    type=DTYPE,
    multiple=True,
    default=["float32"],
    show_default=True,
    help="A dtype that engines may run in; may be repeated.",
)
@click.option("--out", type=FOLDER, required=True, help="The new folder of the bundle.")
@click.option("--with-checkpoint", is_flag=True, help="Copy the checkpoints into the bundle.")
@click.option(
    "--checkpoint-limit", type=SIZE, default="64MB", show_default=True, help="Largest checkpoint that is copied."
)
@click.option("--limit", type=SIZE, help="Fail if the bundle is larger, for example 50MB.")
@threads_option
def bundle_make(**options: Any) -> int:
    """Make a golden bundle of cases.

    MODEL is a checkpoint folder or a hub id that every case uses. Default: each case has its own.
    """
    from parity.cli.bundle_options import MakeOptions, chosen_of_bundle
    from parity.cli.checks import check_model
    from parity.cli.run_options import SEEDED

    given = MakeOptions(**options)
    chosen_of_bundle(given)
    if given.model != SEEDED:
        check_model(given.model)
    from parity.cli.commands.bundle_make import make

    return make(given)


@subcommand(bundle, name="check")
@click.argument("folder", metavar="BUNDLE", type=FOLDER)
@_sha256_option
def bundle_check(*, folder: Path, sha256: str | None) -> int:
    """Check every file of BUNDLE, and that reference, floors and inputs fit each other. Needs no torch."""
    from parity.cli.commands.bundle import check_bundle

    return check_bundle(folder, sha256=sha256)


@subcommand(bundle, name="show")
@click.argument("folder", metavar="BUNDLE", type=FOLDER)
@json_option
def bundle_show(*, folder: Path, as_json: bool) -> int:
    """Show what BUNDLE has: cases, checkpoints, dtypes, and what to feed an engine. Needs no torch."""
    from parity.cli.commands.bundle import show_bundle

    return show_bundle(folder, as_json=as_json)


@subcommand(
    main, section="measure", interrupted="interrupted; finished cases are kept, go on with the same --out folder"
)
@click.option("--case", "cases", multiple=True, help="Use only this case; may be repeated. Default: the smallest set.")
@click.option("--every-case", is_flag=True, help="Use every case: the whole kill matrix.")
@click.option("--mutant", "ids", multiple=True, help="Plant only this mistake; may be repeated.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@out_option
@fresh_option
@workers_options
@json_option
def mutants(**options: Any) -> int:
    """Plant every known mistake in the port. Check that each is caught, and at the right seam.

    Cases that an earlier run into the same folder has finished are not run again, if nothing has changed.
    """
    from parity.cli.checks import check_cases

    check_workers(options["workers"], options["scheduler"])
    check_cases(options["cases"], every_case=options["every_case"])
    if options["ids"]:
        from parity.mutants.registry import chosen  # needs torch, but no transformers

        chosen(options["ids"])
    from parity.cli.commands.mutants import mutants

    return mutants(**options)


@subcommand(main, section="measure")
@click.option("--dtype", "dtypes", type=DTYPE, multiple=True, default=["float32"], help="Dtype; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Checkpoints per case.")
@click.option("--case", "cases", multiple=True, help="Use only this case; may be repeated.")
@click.option(
    "--kernels",
    type=click.Choice(KERNELS),
    multiple=True,
    help="Another library for correct runs of the port; may be repeated. Default: all.",
)
@click.option("--out", type=FOLDER, default=Path("parity-reports/calibration"), show_default=True)
@workers_options
@threads_option
@json_option
def calibrate(**options: Any) -> int:
    """Measure the smallest m without a false alarm, over many correct runs."""
    from parity.cli.checks import check_cases

    check_workers(options["workers"], options["scheduler"])
    check_cases(options["cases"])
    from parity.cli.commands.calibrate import calibrate

    return calibrate(**options)


@subcommand(main, section="measure")
@click.argument("models", nargs=-1)
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the prompt.")
@prompt_option
@save_option
@json_option
def activations(**options: Any) -> int:
    """Measure how peaked logits and attention are, for the seeded checkpoint, the trained model, and MODELS."""
    from parity.cli.checks import check_model

    for model in options["models"]:
        check_model(model)
    from parity.cli.commands.activations import activations

    return activations(**options)


@subcommand(main, section="measure")
@model_argument
@click.option("--shape", help="Measure a seeded checkpoint of this shape, such as 2b; it is made if needed.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "tf32"]), default="float32", show_default=True)
@device_option
@click.option("--kernels", type=click.Choice(["fast", "plain"]), default="fast", show_default=True)
@click.option(
    "--clock",
    type=click.Choice(["wall", "processor"]),
    help="Seconds that pass, or that processors work for this command. Default: wall; to check or accept: processor.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="For each work.")
@click.option("--curves/--no-curves", default=True, help="Whether to measure how cost grows; not with --check.")
@click.option("--check", is_flag=True, help="Fail if the port is slower than accepted, or does more.")
@click.option("--accepted", type=FOLDER, help="File of accepted figures for --check; default: that of the project.")
@click.option(
    "--accept", type=FOLDER, help="Add this session to this file of accepted figures; the lowest of its ratios counts."
)
@click.option(
    "--work",
    "works",
    type=click.Choice(WORK_NAMES),
    multiple=True,
    help="Measure only this work; may be repeated. With --check, the others count as not measured.",
)
@click.option("--beside", type=click.Choice(["mistralrs"]), help="Time this engine beside the port as well.")
@click.option(
    "--verdict/--no-verdict", default=None, help="Whether to time a whole verdict; default: for small models only."
)
@save_option
@threads_option
@json_option
def bench(**options: Any) -> int:
    """Time the port beside the reference, in pairs, with a control of the noise.

    MODEL is a checkpoint folder or a hub id; the default is the small trained model. Vision tower, prefill, decoding,
    loading and memory, beside what the machine can do; it takes a few minutes.
    """
    from parity.cli.bench_options import BenchOptions, check_bench

    given = BenchOptions(**options)
    check_bench(given)
    from parity.cli.commands.bench import bench

    return bench(given)


@subcommand(main, section="look", interrupted="interrupted")
@model_argument
@click.option("--image", "images", type=FOLDER, multiple=True, help="A picture for the question; may be repeated.")
@click.option("--video", "videos", type=FOLDER, multiple=True, help="A video file, or a folder of frames.")
@click.option("--prompt", callback=text, help="One question; without it, questions are read from the terminal.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Default: the checkpoint's, or 512.")
@click.option("--greedy", is_flag=True, help="Always take the likeliest token; overrides generation_config.json.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True))
@click.option("--top-k", type=click.IntRange(min=0))
@click.option("--top-p", type=click.FloatRange(0, 1))
@click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sampling.")
@click.option("--chunk", type=click.IntRange(min=1), help="Prefill in chunks of this many tokens.")
@click.option("--dtype", type=MODEL_DTYPE, default="float32", show_default=True)
@device_option
@threads_option
@json_option
def chat(**options: Any) -> int:
    """Ask the port about pictures and videos. The answer is streamed, and its speed is shown at the end.

    MODEL is a checkpoint folder or a hub id. The default is the small trained model, which only knows the coloured
    shapes of `parity scenes`.
    """
    from parity.cli.checks import check_device, check_model

    check_device(options["device"], options["dtype"])
    check_model(options["model"])
    from parity.cli.commands.chat import ChatOptions, chat

    return chat(ChatOptions(**options))


@subcommand(main, section="look")
@json_option
def seams(*, as_json: bool) -> int:
    """List the seams: name, axes, gate, and their place in the reference."""
    from parity.cli.commands.listing import print_seams

    return print_seams(as_json=as_json)


@subcommand(main, section="look")
@json_option
def cases(*, as_json: bool) -> int:
    """List the cases that `run`, `suite` and `mutants` take."""
    from parity.cli.commands.listing import print_cases

    return print_cases(as_json=as_json)


@main.group()
def trace() -> None:
    """Check trace folders."""


@subcommand(trace, name="check")
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--against", metavar="BUNDLE", type=FOLDER, help="Also check that the traces fit this golden bundle.")
@_expect_option
@_layout_option
def trace_check(*, folders: tuple[Path, ...], against: Path | None, expect: str, layout: Path | None) -> int:
    """Report everything that is wrong with trace folders, with one problem for each cause."""
    from parity.cli.commands.compare import check_against, check_folders

    return check_folders(folders) if against is None else check_against(against, folders, expect, layout)


@subcommand(main, section="look")
@click.argument("report", type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder for the new files; default: the folder of report.json.")
def report(*, report: Path, out: Path | None) -> int:
    """Make CSV, Markdown and HTML again from a saved report.json (or its folder)."""
    from parity.cli.console import printing
    from reports.write import render

    path = report / "report.json" if report.is_dir() else report
    files = render(path, out_dir=out)
    with printing():
        for made in files.values():
            click.echo(made)
    return 0


add_record_commands(main, signoff)
main.add(checkpoint, "make")
main.add(bundle, "make")
main.add(trace, "look")
