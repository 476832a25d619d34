"""Chat templates that nobody has vetted, each in a process of its own: ``port.template_worker``.

Jinja's sandbox keeps a template from the interpreter, not from running for ever or filling the memory. The system does
that, for a process whose memory it bounds and which is killed when its time is over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from port.limits import Limits

_WORKER = Path(__file__).with_name("template_worker.py")
_CHUNK = 1 << 20
_SAYS = {
    "syntax": "does not compile: {}; it uses what transformers does not give to templates, or is damaged",
    "refused": "refuses the conversation: {}",
    "too much": "asks for more than {}; use a shorter conversation, another template or a higher limit",
}


class SandboxError(Exception):
    """What a template did wrong, as the end of a sentence that starts with the template."""


class Sandbox:
    """A compiled template. Raises SandboxError where it does not compile.

    The process is kept for the next rendering, and replaced after it was killed or has died. Threads take turns, a
    forked process starts its own. It ends with this object, and when this process ends, however that happens.
    """

    _lock: threading.Lock
    _process: subprocess.Popen[bytes] | None
    _ending: weakref.finalize[[subprocess.Popen[bytes]], Sandbox] | None

    def __init__(self, template: str, limits: Limits) -> None:
        self._template, self._limits = template, limits
        self._lock, self._process, self._ending = threading.Lock(), None, None
        _SANDBOXES.add(self)
        self._start()

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises SandboxError, and ValueError or RecursionError where JSON cannot hold the variables."""
        request = json.dumps(variables)
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return str(self._ask(request)["text"])

    def _start(self) -> None:
        self._stop()
        limits = self._limits
        most = (limits.max_template_seconds, limits.max_template_memory, limits.max_prompt_characters)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", str(_WORKER), *map(str, most)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same Jinja as here
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # no buffer that a forked process could write a second time
            start_new_session=True,  # Ctrl-C does not reach it
        )
        self._ending = weakref.finalize(self, _end, self._process)
        self._ask(json.dumps(self._template))

    def _stop(self) -> int | None:
        """The exit status of the process; None where there is none."""
        self._process = None
        return None if self._ending is None else self._ending()

    def _ask(self, request: str) -> dict[str, Any]:
        """One line there and one back. The process is ended where it is of no use for another."""
        process, seconds = self._process, self._limits.max_template_seconds
        assert process is not None, "it was started before"
        there, back = _pipes(process)
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        answer = bytearray()
        try:
            with suppress(OSError):  # it has died; what it said before can still be read
                waiting = memoryview(request.encode() + b"\n")
                while waiting:
                    waiting = waiting[there.write(waiting) :]
            # A character takes six bytes at most, as \u001f does. An error and what is around it fit into the rest.
            while not answer.endswith(b"\n") and len(answer) <= 6 * self._limits.max_prompt_characters + 10_000:
                part = back.read(_CHUNK)
                if not part:
                    break
                answer += part
        except BaseException:
            self._stop()
            raise
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            self._stop()
            raise SandboxError(_SAYS["too much"].format(f"{seconds:g} s (Limits.max_template_seconds)"))
        if not answer.endswith(b"\n"):
            raise SandboxError(f"was not rendered: its process ended with exit status {self._stop()}; try again")
        said: dict[str, Any] = json.loads(answer)
        if "kind" in said:
            if said["kind"] != "refused":
                self._stop()
            raise SandboxError(_SAYS[said["kind"]].format(said["error"]))
        return said

    def after_fork(self) -> None:
        """Leave the worker to the process that this one was forked from."""
        if self._process is not None:
            for pipe in _pipes(self._process):  # else the worker would wait for this process too
                pipe.close()
            self._process.returncode = 0  # over, as far as this process goes: nothing to kill or to wait for
        self._lock, self._process = threading.Lock(), None


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Its input and its output."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _end(process: subprocess.Popen[bytes]) -> int:
    """The exit status."""
    process.kill()
    for pipe in _pipes(process):
        pipe.close()
    return process.wait()


_SANDBOXES: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _after_fork() -> None:
    for sandbox in list(_SANDBOXES):
        sandbox.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
