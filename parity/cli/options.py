"""The options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import click

from parity.core.errors import ParityError
from parity.milestones.shards import Shard, read_shard

FOLDER = click.Path(path_type=Path)
DTYPE = click.Choice(["float32", "bfloat16", "float16"])
# For commands that also run on a GPU.
MODEL_DTYPE = click.Choice(["float32", "bfloat16", "float16", "tf32"])
_DEVICE = re.compile(r"cpu|mps|cuda(:[0-9]{1,3})?")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
every_option = click.option("--every-seam", "every", is_flag=True, help="List every seam, even of parts that passed.")
threads_option = click.option("--threads", type=click.IntRange(min=1), help="Number of threads that torch uses.")
out_option = click.option("--out", type=FOLDER, help="Folder of the report; default: a new folder in parity-reports.")
annotations_option = click.option(
    "--annotations", is_flag=True, help="Also print what fails as annotations of GitHub Actions."
)
shard_option = click.option(
    "--shard", metavar="I/N", callback=lambda _context, _parameter, value: shard(value),
    help="Run only part I of N; `parity merge` puts the parts together.",
)  # fmt: skip
save_option = click.option("--out", type=FOLDER, help="Write a report to this folder; default: none is written.")


def device(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check that the text is the name of a device. Whether it is there is only known with torch."""
    if _DEVICE.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is no device; write cpu, cuda, cuda:1 (the second GPU) or mps")
    return value


device_option = click.option(
    "--device",
    metavar="cpu|cuda|cuda:N|mps",
    default="cpu",
    show_default=True,
    callback=device,
    help="Where the models run, and where floors are measured.",
)


def shard(value: str | None) -> Shard | None:
    """Read a shard such as 2/4."""
    try:
        return None if value is None else read_shard(value)
    except ParityError as error:
        raise click.BadParameter(str(error), param_hint="--shard") from None


def text(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check that the text can be written as UTF-8."""
    try:
        (value or "").encode("utf-8")
    except UnicodeEncodeError:
        raise click.BadParameter("it is not valid UTF-8 text", param=parameter) from None
    return value


def model(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Check that the folder or hub id is not empty."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; name a folder or a hub id, or leave it out", param=parameter)
    return value


model_argument = click.argument("model", required=False, callback=model)
prompt_option = click.option("--prompt", callback=text, help="The question.")


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, such as 800000, 50MB or 2GB. MB are 10^6 bytes."""

    name = "size"
    _UNITS: ClassVar[dict[str, float]] = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Z]{0,2})", str(value).upper())
        if found is None or found[2] not in self._UNITS:
            self.fail(f"{value!r} is not a size; write for example 50MB", param, ctx)
        return int(float(found[1]) * self._UNITS[found[2]])


SIZE = Size()
