"""mistral.rs as an engine. Its Python wheel gives greedy tokens and log-probabilities in a separate process.

The wheel prints to stdout and aborts the process on some errors, so it is never loaded into the harness itself.
That process runs this module: it reads a JSON request from stdin, and writes the answer to the file named in it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.engines.apart import ask_apart
from parity.engines.questions import Answer, Question, Token

_SECONDS = 600
_TOP = 5  # number of log-probabilities for each token


class MistralRs:
    """mistral.rs on the CPU in float32. Questions are asked one by one."""

    @property
    def title(self) -> str:
        return "mistral.rs" if self.unavailable() else f"mistral.rs {version('mistralrs')}"

    def unavailable(self) -> str | None:
        if find_spec("mistralrs") is None:
            return "mistralrs is not installed: pip install 'qwen3vl-parity[engines]'"
        return None

    def reads_mp4(self) -> bool:
        """Return whether the ffmpeg program is installed, with which it decodes MP4."""
        return shutil.which("ffmpeg") is not None

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """Answer the questions. Raises ParityError if the wheel is not installed, or if its process fails."""
        why = self.unavailable()
        if why is not None:
            raise ParityError(why)
        if not (folder / "config.json").is_file():
            # The engine would treat the name as a hub id and use the network.
            raise ParityError(f"{folder / 'config.json'} does not exist; give a checkpoint folder")
        request = {
            "folder": str(folder.resolve()),
            "questions": [
                {
                    "content": question.content(_medium),
                }
                for question in questions
            ],
            "steps": max_new_tokens,
            "top": _TOP,
            "ignore_end": ignore_end,
        }
        return [
            Answer(
                [Token(step["token_id"], {int(k): v for k, v in step["top"].items()}) for step in found["steps"]],
                found["text"],
                found["prompt_tokens"],
            )
            for found in _run(request)
        ]


def _run(request: dict[str, Any]) -> list[dict[str, Any]]:
    engine, own = f"mistral.rs on {request['folder']}", environment_of("float32")
    return ask_apart("parity.engines.mistralrs", request, engine=engine, seconds=_SECONDS, environment=own)


def environment_of(dtype: str) -> dict[str, str]:
    """Return what its process needs: its CPU cache is float16 unless told otherwise."""
    return {"MISTRALRS_CPU_KV_F32": "1"} if dtype == "float32" else {}


def runner(folder: str, dtype: str) -> tuple[Any, Any]:
    """Return the wheel, and a model of it. To be called in a process of its own."""
    import mistralrs as wheel

    # Its type stubs lack the subclasses of Which and lists of content parts.
    engine: Any = wheel
    dtypes = {"float32": engine.ModelDType.F32, "bfloat16": engine.ModelDType.BF16}
    which = engine.Which.MultimodalPlain(
        model_id=folder, arch=engine.MultimodalArchitecture.Qwen3VL, dtype=dtypes[dtype]
    )
    return engine, engine.Runner(which=which, prefix_cache_n=0, token_source="none")


def _serve(request: dict[str, Any]) -> None:
    engine, made = runner(request["folder"], "float32")
    answers = [_answer(engine, made, request, question) for question in request["questions"]]
    Path(request["answer"]).write_text(json.dumps(answers), encoding="utf-8")


def _medium(kind: str, path: Path) -> dict[str, Any]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": str(path.resolve())}}


def _answer(engine: Any, runner: Any, request: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    content = question["content"]
    if len(content) == 1:
        content = content[0]["text"]
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
