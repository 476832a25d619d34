"""One place where errors become a message and an exit code; a traceback only with ``--debug``."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import click

USAGE = 2
INTERRUPTED = 130
_ROOMS = ("parity", "port", "reference", "reports")
_EXTRAS = {"torch": "port", "transformers": "reference", "torchvision": "reference", "av": "reference"}


def guarded(action: Callable[[], int], *, debug: bool) -> int:
    """Run ``action`` and return its exit code, or that of the error that it raised.

    Errors that a room raises on purpose name the thing and the way out, so their text is the message. Anything
    else is a defect of the harness, and says so.
    """
    try:
        return action()
    except click.ClickException:
        raise
    except KeyboardInterrupt:
        message, code = "interrupted; no report was written, and an earlier one is as it was", INTERRUPTED
        _say(message, debug=debug)
        return code
    except ModuleNotFoundError as error:
        _say(_missing_extra(error), debug=debug)
        return USAGE
    except Exception as error:
        ours = isinstance(error, ValueError) and type(error).__module__.split(".")[0] in _ROOMS
        if ours:
            _say(str(error), debug=debug)
        else:
            kind = type(error).__name__
            _say(f"unexpected {kind}: {error}; this is a defect of the harness, --debug shows where", debug=debug)
        return USAGE


def _missing_extra(error: ModuleNotFoundError) -> str:
    extra = _EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return f"{error}; is the installation complete?"
    return f"{error}, which this command needs: pip install 'qwen3vl-parity[{extra}]'"


def _say(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(f"parity: {message}", err=True)
