"""The process in which a chat template is compiled and rendered; ``port.sandbox`` starts it and talks to it.

Run by its path, as importing ``port`` would import torch. Arguments: seconds for each request, bytes of memory,
characters of a prompt. Each line of the input is one value in JSON: first the template, then the variables of one
rendering after the other. Each has one line for an answer: ``{"text": ...}``, or ``{"kind": ..., "error": ...}``, where
the kind is "syntax", "refused" or "too much". It ends with its input, or after it has run out of memory.

Nothing of Python can be reached from a template: that is the work of Jinja's sandbox. The system bounds the rest: on
Linux memory, open files and what is written to files, elsewhere nothing. Time is bounded here wherever there are
alarms, which is not on Windows, and by ``port.sandbox`` everywhere.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SHOWN = 500  # characters of an error
_GRACE = 1.0  # seconds that port.sandbox has to end this process and say why, before it ends by itself


def environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives to chat templates."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": _Dict(), "namespace": _Namespace}
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: Any) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here it is its contents."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """The builtin, without its other attributes."""

    fromkeys = staticmethod(dict.fromkeys)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """Refuses names that start with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}; use a name without the underscore")


def main(seconds: float, memory: int, characters: int) -> None:
    _limit(memory)
    template: jinja2.Template | None = None
    try:
        for line in sys.stdin.buffer:
            with _alarm(seconds + _GRACE):
                answer: dict[str, str] = {}
                if template is None:
                    try:
                        template = environment().from_string(json.loads(line))
                    except MemoryError:
                        raise
                    except Exception as error:  # Jinja's, or one of Python's own compiler
                        place = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
                        answer = {"kind": "syntax", "error": _shown(error) + place}
                else:
                    answer = _rendered(template, line, characters)
                _write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    except MemoryError:
        _write(b'{"kind": "too much", "error": "%d MiB of memory (Limits.max_template_memory)"}' % (memory >> 20))


def _rendered(template: jinja2.Template, variables: bytes, characters: int) -> dict[str, str]:
    text = io.StringIO()
    try:
        for part in template.generate(json.loads(variables)):
            if text.tell() + len(part) > characters:
                return {"kind": "too much", "error": f"{characters:,} characters (Limits.max_prompt_characters)"}
            text.write(part)
    except MemoryError:
        raise
    except Exception as error:  # a template is a program of its own: it raises whatever its expressions raise
        return {"kind": "refused", "error": _shown(error)}
    return {"text": text.getvalue()}


def _shown(error: Exception) -> str:
    return str(error)[:_SHOWN] or type(error).__name__


def _write(line: bytes) -> None:
    waiting = memoryview(line + b"\n")
    while waiting:
        waiting = waiting[os.write(sys.stdout.fileno(), waiting) :]


def _limit(memory: int) -> None:
    if sys.platform == "linux":
        import resource

        for kind, most in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 16),
        ):
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Ends this process after so many seconds, even inside one long operation and where nobody waits any more."""
    if sys.platform == "win32":
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
