"""Asks an engine in a process of its own, as a failed assertion of its libraries ends the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError


def ask_apart(
    module: str, request: Mapping[str, Any], *, engine: str, seconds: int, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run ``module`` with a JSON request on stdin. Returns what it wrote to the file named in ``request["answer"]``.

    ``environment`` is added to that of this process. Raises ParityError if there is no answer after ``seconds``, or if
    the process fails; ``engine`` names it in the message.
    """
    with tempfile.TemporaryDirectory(prefix="parity-engine-") as work:
        path = Path(work) / "answer.json"
        try:
            done = subprocess.run(
                # -P: do not import a folder of the user that is called parity.
                [sys.executable, "-P", "-m", module],
                input=json.dumps({**request, "answer": str(path)}),
                capture_output=True,
                text=True,
                env={**os.environ, **(environment or {})},
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ParityError(f"{engine} gave no answer in {seconds} s") from None
        if done.returncode or not path.exists():
            last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise ParityError(f"{engine} failed (exit code {done.returncode}): {last}")
        answers: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return answers
