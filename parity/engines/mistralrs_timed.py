"""mistral.rs, timed: a process that stays, answers prompts one after the other, and says how long each part took.

The process runs this module. It reads one JSON request a line from stdin, and writes one JSON answer a line.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from parity.core.errors import ParityError
from parity.engines.mistralrs import environment_of, runner

_SECONDS = 600.0
_LAST = 5  # lines of its errors that are shown


@dataclass(frozen=True)
class Answered:
    """Seconds of one answer, as the engine says: of the prompt's tokens, and of those after the first."""

    prompt_tokens: int
    prompt_seconds: float
    decoded_tokens: int
    decode_seconds: float


class TimedMistralRs:
    """mistral.rs on the CPU with a checkpoint, until the end of the ``with`` block. Raises ParityError if it fails."""

    def __init__(self, folder: Path, *, dtype: str, threads: int) -> None:
        self._request = {"folder": str(folder.resolve()), "dtype": dtype}
        self._environment = {**os.environ, **environment_of(dtype), "RAYON_NUM_THREADS": str(threads)}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "parity.engines.mistralrs_timed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            text=True,
        )
        try:
            self._ask(self._request)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self, prompt: str, *, tokens: int) -> Answered:
        """Answer a prompt with so many tokens, greedily, whatever the end token says."""
        return Answered(**self._ask({"prompt": prompt, "tokens": tokens}))

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], _SECONDS)
            line = self._process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line is None:
            raise ParityError(f"mistral.rs gave no answer in {_SECONDS:g} s")
        if not line:
            self._process.wait()
            assert self._process.stderr is not None
            errors = self._process.stderr.read()
            last = "\n".join(errors.strip().splitlines()[-_LAST:])
            raise ParityError(f"mistral.rs failed (exit code {self._process.returncode}): {last}")
        found: dict[str, Any] = json.loads(line)
        return found


def _serve() -> None:
    # The wheel prints to stdout, which is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    first = json.loads(sys.stdin.readline())
    engine, made = runner(first["folder"], first["dtype"])
    _say(answers, {})
    for line in sys.stdin:
        asked = json.loads(line)
        request = engine.ChatCompletionRequest(
            model="default",
            messages=[{"role": "user", "content": asked["prompt"]}],
            max_tokens=asked["tokens"],
            temperature=0.0,
            top_k=1,
            ignore_eos=True,
            enable_thinking=False,
        )
        used = made.send_chat_completion_request(request).usage
        found = Answered(
            prompt_tokens=used.prompt_tokens,
            prompt_seconds=used.total_prompt_time_sec,
            decoded_tokens=used.completion_tokens - 1,  # the first one comes from the prompt
            decode_seconds=used.total_completion_time_sec,
        )
        _say(answers, asdict(found))


def _say(answers: Any, found: Mapping[str, Any]) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()


if __name__ == "__main__":
    _serve()
