"""mistral.rs as an engine: greedy tokens and log-probabilities from its Python wheel, in a process of its own.

The wheel prints to stdout and aborts the process on some errors, so it is never loaded into the harness itself.
Run as a module, this file is that process: a JSON request on stdin, the answer in the file that it names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError

_SECONDS = 600


@dataclass(frozen=True)
class Step:
    """One generated token with the most likely ones at its place (token id to log-probability)."""

    token_id: int
    top: dict[int, float]


@dataclass(frozen=True)
class Answer:
    """What the engine generated greedily; ``prompt_tokens`` counts the tokens of its prompt."""

    version: str
    prompt_tokens: int
    steps: list[Step]


def installed() -> bool:
    return find_spec("mistralrs") is not None


def generate(folder: Path, prompt: str, *, images: list[Path], steps: int, top: int = 5) -> Answer:
    """Greedy generation on the CPU in float32, pictures before the text (the engine moves them there anyway).

    Raises ParityError when the wheel is not installed, or when its process fails.
    """
    if not installed():
        raise ParityError("mistralrs is not installed: pip install 'qwen3vl-parity[engines]'")
    if not (folder / "config.json").is_file():
        # The engine would take the name for a hub id and go to the network.
        raise ParityError(f"{folder / 'config.json'} does not exist; give a checkpoint folder")
    with tempfile.TemporaryDirectory() as work:
        answer_file = Path(work) / "answer.json"
        request = {
            "folder": str(folder.resolve()),
            "prompt": prompt,
            "images": [str(path.resolve()) for path in images],
            "steps": steps,
            "top": top,
            "answer": str(answer_file),
        }
        # Its CPU cache is float16 unless told otherwise.
        environment = {**os.environ, "MISTRALRS_CPU_KV_F32": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "parity.qwen3vl.mistralrs"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                env=environment,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ParityError(f"mistral.rs gave no answer in {_SECONDS} s for {folder}") from None
        if done.returncode or not answer_file.exists():
            last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise ParityError(f"mistral.rs failed on {folder} (exit code {done.returncode}): {last}")
        raw = json.loads(answer_file.read_text(encoding="utf-8"))
    generated = [Step(step["token_id"], {int(k): v for k, v in step["top"].items()}) for step in raw["steps"]]
    return Answer(raw["version"], raw["prompt_tokens"], generated)


def _serve(request: dict[str, Any]) -> None:
    from importlib.metadata import version

    import mistralrs as wheel

    # Its type stubs know neither the subclasses of Which nor lists of content parts.
    engine: Any = wheel
    runner = engine.Runner(
        which=engine.Which.MultimodalPlain(
            model_id=request["folder"],
            arch=engine.MultimodalArchitecture.Qwen3VL,
            dtype=engine.ModelDType.F32,
        ),
        prefix_cache_n=0,
        token_source="none",
    )
    pictures = [{"type": "image_url", "image_url": {"url": path}} for path in request["images"]]
    content = [*pictures, {"type": "text", "text": request["prompt"]}] if pictures else request["prompt"]
    answer = runner.send_chat_completion_request(
        engine.ChatCompletionRequest(
            model="default",
            messages=[{"role": "user", "content": content}],
            max_tokens=request["steps"],
            temperature=0.0,
            top_k=1,
            logprobs=True,
            top_logprobs=request["top"],
            ignore_eos=True,
            enable_thinking=False,
        )
    )
    steps = [
        {
            "token_id": step.top_logprobs[0].token,
            "top": {entry.token: entry.logprob for entry in step.top_logprobs},
        }
        for step in answer.choices[0].logprobs.content
    ]
    document = {"version": version("mistralrs"), "prompt_tokens": answer.usage.prompt_tokens, "steps": steps}
    Path(request["answer"]).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    _serve(json.load(sys.stdin))
