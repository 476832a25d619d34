"""Turns errors into a message and an exit code. A traceback is only shown with ``--debug``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from parity.cli import signals
from parity.cli.console import harmless

USAGE = 2
_ROOMS = ("parity", "port", "reference", "reports")
_DISK = "check the path, its permissions and the free space on its disk"
UNTOUCHED = "interrupted; nothing was written, and an earlier report is unchanged"
_EXTRAS = {
    "torch": "port",
    "tokenizers": "port",
    "av": "port",
    "transformers": "reference",
    "torchvision": "reference",
}


def guarded(action: Callable[[], int], *, debug: bool, interrupted: str = UNTOUCHED) -> int:
    """Run ``action``. Returns its exit code, or that of its error. ``interrupted`` is the message at Ctrl-C.

    The project's own errors say what is wrong and what to do, so their text is the message. Errors of the operating
    system name a file. Any other error is reported as a defect of the harness.
    """
    try:
        with signals.terminable(), quiet_libraries(debug=debug):
            return action()
    except click.ClickException:
        raise
    except KeyboardInterrupt as interrupt:
        _say(interrupted, debug=debug)
        return signals.exit_code(interrupt)
    except Exception as error:
        _say(_message(error), debug=debug)
        return USAGE


@contextmanager
def quiet_libraries(*, debug: bool) -> Iterator[None]:
    """Hide the libraries' warnings and hints, but not their errors. With ``--debug`` they are shown.

    Environment variables are needed for two things: torch's C++ warnings, and the progress bars that a download writes
    even to a file.
    """
    if debug:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return _missing_extra(error)
    if isinstance(error, ValueError) and type(error).__module__.split(".")[0] in _ROOMS:
        return str(error)
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({error}); use a shorter prompt, smaller pictures or a smaller model"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {_DISK}"
    if type(error).__name__ == "SafetensorError" and "I/O error" in str(error):
        return f"a trace cannot be written: {error}; {_DISK} (temporary traces are in TMPDIR)"
    return f"unexpected {type(error).__name__}: {error}; this is a defect of the harness, --debug shows the traceback"


def _missing_extra(error: ModuleNotFoundError) -> str:
    extra = _EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return f"{error}; is the installation complete?"
    return f"{error}, which this command needs: pip install 'qwen3vl-parity[{extra}]'"


def _say(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"parity: {harmless(message)}", err=True)
