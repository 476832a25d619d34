"""The commands about finished records and reports: diff, merge and history; and ``quick``, which runs the port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from parity.cli.command import SectionedGroup, subcommand
from parity.cli.options import FOLDER, annotations_option, json_option, out_option, save_option


def add_record_commands(main: SectionedGroup, signoff: click.Group) -> None:
    """Add the commands to the group of all commands, and ``diff`` to ``parity signoff``."""

    @subcommand(signoff, name="diff")
    @click.argument("before", type=FOLDER)
    @click.argument("after", type=FOLDER)
    @save_option
    @json_option
    def diff(before: Path, after: Path, out: Path | None, *, as_json: bool) -> int:
        """Compare two records: verdicts, discrete figures, margins, and what they were made with.

        BEFORE and AFTER are records or their folders. Exit code 1 if a verdict or a discrete figure differs.
        """
        from parity.cli.commands.signoff_diff import diff

        return diff(before, after, out=out, as_json=as_json)

    @subcommand(main, section="make")
    @click.argument("folders", type=FOLDER, nargs=-1, required=True)
    @out_option
    @click.option("--milestones", type=FOLDER, help="The milestones file of the sign-offs, if not the standard one.")
    @click.option("--junit", type=FOLDER, help="Of sign-offs: also write JUnit XML to this file.")
    @click.option("--summary", type=FOLDER, help="Of sign-offs: append the report in Markdown to this file.")
    @annotations_option
    @json_option
    def merge(**options: Any) -> int:
        """Put the shards of `parity suite --shard` or `parity signoff --shard` together.

        The result equals that of one run. A missing shard makes it INCOMPLETE. Shards of other code, checkpoints or
        versions are refused.
        """
        from parity.cli.checks import check_shards

        check_shards(options["folders"])
        from parity.cli.commands.merge import MergeOptions, merge

        return merge(MergeOptions(**options))

    @subcommand(main, section="look")
    @click.argument("folder", type=FOLDER)
    @save_option
    @json_option
    def history(folder: Path, out: Path | None, *, as_json: bool) -> int:
        """Show how margins changed over the sign-offs and suites in the subfolders of FOLDER.

        Names the first run in which a margin shrank by more than its noise.
        """
        from parity.cli.commands.history import history

        return history(folder, out=out, as_json=as_json)

    @subcommand(main, section="judge")
    @json_option
    def quick(*, as_json: bool) -> int:
        """Check the port in seconds, for a pre-commit hook: one case, seam by seam. It signs nothing off."""
        from parity.cli.commands.quick import quick

        return quick(as_json=as_json)
