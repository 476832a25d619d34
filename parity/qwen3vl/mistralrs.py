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
from collections.abc import Sequence
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
    text: str


@dataclass(frozen=True)
class Request:
    """One user turn: pictures and videos, before the text (the engine moves pictures there anyway)."""

    prompt: str
    images: Sequence[Path] = ()
    videos: Sequence[Path] = ()


def installed() -> bool:
    return find_spec("mistralrs") is not None


def generate(folder: Path, prompt: str, *, images: list[Path], steps: int, top: int = 5) -> Answer:
    """As ``generate_all``, for one question that is not ended by an end token."""
    return generate_all(folder, [Request(prompt, images)], steps=steps, top=top, ignore_end=True)[0]


def generate_all(
    folder: Path, requests: Sequence[Request], *, steps: int, top: int = 5, ignore_end: bool = False
) -> list[Answer]:
    """Greedy answers on the CPU in float32, one after the other in one process of the engine.

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
            "questions": [
                {
                    "prompt": one.prompt,
                    "images": [str(path.resolve()) for path in one.images],
                    "videos": [str(path.resolve()) for path in one.videos],
                }
                for one in requests
            ],
            "steps": steps,
            "top": top,
            "ignore_end": ignore_end,
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
    return [
        Answer(
            raw["version"],
            one["prompt_tokens"],
            [Step(step["token_id"], {int(k): v for k, v in step["top"].items()}) for step in one["steps"]],
            one["text"],
        )
        for one in raw["answers"]
    ]


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
    answers = [_answer(engine, runner, request, question) for question in request["questions"]]
    document = {"version": version("mistralrs"), "answers": answers}
    Path(request["answer"]).write_text(json.dumps(document), encoding="utf-8")


def _answer(engine: Any, runner: Any, request: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    media = [
        {"type": f"{kind}_url", f"{kind}_url": {"url": path}}
        for kind in ("image", "video")
        for path in question[f"{kind}s"]
    ]
    content = [*media, {"type": "text", "text": question["prompt"]}] if media else question["prompt"]
    answer = runner.send_chat_completion_request(
        engine.ChatCompletionRequest(
            model="default",
            messages=[{"role": "user", "content": content}],
            max_tokens=request["steps"],
            temperature=0.0,
            top_k=1,
            logprobs=True,
            top_logprobs=request["top"],
            ignore_eos=request["ignore_end"],
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
    text = answer.choices[0].message.content or ""
    return {"prompt_tokens": answer.usage.prompt_tokens, "steps": steps, "text": text}


if __name__ == "__main__":
    _serve(json.load(sys.stdin))
