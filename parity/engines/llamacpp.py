"""llama.cpp as an engine: its own libraries (libllama and libmtmd), from the wheel ``llama-cpp-py-sync``.

Its picture decoder, resize, tokenizer, vision tower and text model run in a process of their own, in float32, because a
failed assertion of theirs ends the process. That process runs this module: it reads a JSON request from stdin, and
writes the answer to the file named in it.
"""

from __future__ import annotations

import json
import mimetypes
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parity.core.errors import ParityError
from parity.engines.apart import ask_apart
from parity.engines.questions import Answer, Question, Token

_SECONDS = 600
_TOP = 20  # number of log-probabilities for each token
_CONTEXT = 4096
_PICTURE, _MARKER = "<|vision_start|><|image_pad|><|vision_end|>", "<__media__>"


class LlamaCpp:
    """llama.cpp on the CPU in float32. The checkpoint is written as GGUF first. Questions are asked one by one."""

    @property
    def title(self) -> str:
        lacking = find_spec("llama_cpp_py_sync") is None
        return "llama.cpp" if lacking else f"llama.cpp (llama-cpp-py-sync {version('llama-cpp-py-sync')})"

    def unavailable(self) -> str | None:
        lacking = [name for name in ("llama_cpp_py_sync", "gguf") if find_spec(name) is None]
        if lacking:
            return f"{' and '.join(lacking)} not installed: pip install 'qwen3vl-parity[llamacpp]'"
        return _fault()

    def reads_mp4(self) -> bool:
        return False

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """Answer the questions. Raises ParityError if the wheel is not installed, or if its process fails."""
        why = self.unavailable()
        if why is not None:
            raise ParityError(why)
        # Both need torch, which the process of the engine does not.
        from parity.engines.gguf_files import write_gguf
        from port.pixel_config import PictureConfig

        pixels = PictureConfig.from_folder(folder)
        with tempfile.TemporaryDirectory(prefix="parity-llamacpp-") as work:
            model, tower = write_gguf(folder, Path(work))
            found = _run(
                {
                    "model": str(model),
                    "tower": str(tower),
                    "questions": [_asked(folder, question) for question in questions],
                    "tokens": [size // pixels.factor**2 for size in (pixels.min_pixels, pixels.max_pixels)],
                    "steps": max_new_tokens,
                    "ignore_end": ignore_end,
                }
            )
        return [
            Answer(
                [Token(step["token"], {int(k): v for k, v in step["top"].items()}) for step in one["steps"]],
                one["text"],
                one["prompt_tokens"],
            )
            for one in found
        ]


@cache
def _fault() -> str | None:
    """Return why the wheel's libraries cannot be loaded, or None. They may need a newer C library than there is."""
    load = "from llama_cpp_py_sync import _cffi_bindings as b; b.get_lib(); b.get_mtmd_lib()"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", load], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "the libraries of llama-cpp-py-sync cannot be loaded in 60 s"
    if done.returncode == 0:
        return None
    needed = re.search(r"version `(\w+_[\d.]+)' not found", done.stderr)
    why = f"they need {needed[1]}, which this machine lacks" if needed else done.stderr.strip()[-300:]
    return f"the libraries of llama-cpp-py-sync cannot be loaded: {why}; run llama-server elsewhere and use `server`"


def _asked(folder: Path, question: Question) -> dict[str, Any]:
    """A question as libmtmd takes it: the rendered prompt with a marker for each picture, and the files."""
    from port.template import ChatTemplate

    if question.videos:
        raise ParityError("llama.cpp is asked about pictures and text only")
    content = question.content(lambda kind, _path: {"type": kind})
    prompt = ChatTemplate.from_folder(folder).render([{"role": "user", "content": content}], add_generation_prompt=True)
    if prompt.count(_PICTURE) != len(question.images):
        raise ParityError(f"the chat template of {folder} does not write {_PICTURE} for each picture")
    files = [str(path.resolve()) for path in question.images]
    return {"prompt": prompt.replace(_PICTURE, _MARKER), "images": files}


def _run(request: dict[str, Any]) -> list[dict[str, Any]]:
    return ask_apart("parity.engines.llamacpp", request, engine="llama.cpp", seconds=_SECONDS)


def _serve(request: dict[str, Any]) -> None:
    from llama_cpp_py_sync.llama import Llama
    from llama_cpp_py_sync.multimodal import MultimodalContext

    # The wheel has no types. Flash attention and a 16-bit cache would round.
    model: Any = Llama(
        request["model"], n_ctx=_CONTEXT, n_batch=_CONTEXT, n_threads=1, flash_attn_type=0, type_k="f32", type_v="f32"
    )
    least, most = request["tokens"]
    tower: Any = MultimodalContext(
        model,
        request["tower"],
        use_gpu=False,
        n_threads=1,
        flash_attn_type=0,
        warmup=False,
        image_min_tokens=least,
        image_max_tokens=most,
    )
    answers = [_answer(model, tower, request, question) for question in request["questions"]]
    Path(request["answer"]).write_text(json.dumps(answers), encoding="utf-8")


def _answer(model: Any, tower: Any, request: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    model._clear_context_state()
    media = [(mimetypes.guess_type(path)[0] or "image/png", Path(path).read_bytes()) for path in question["images"]]
    steps: list[dict[str, Any]] = []
    with tower.tokenize_prompt(question["prompt"], media, add_special=False) as prompt:
        length = sum(chunk.n_tokens for chunk in prompt)
        place = tower.evaluate_prompt(prompt)
    end = model.eos_token
    for _ in range(request["steps"]):
        if steps:
            place = model._eval_tokens([steps[-1]["token"]], place)
        steps.append(_likeliest(model))
        if steps[-1]["token"] == end and not request["ignore_end"]:
            break
    return {"prompt_tokens": length, "steps": steps, "text": model.detokenize([step["token"] for step in steps])}


def _likeliest(model: Any) -> dict[str, Any]:
    """The likeliest token of the last logits, and the log-probabilities of the likeliest ones."""
    import numpy as np

    pointer = model._lib.llama_get_logits_ith(model._ctx, -1)
    logits = np.frombuffer(model._ffi.buffer(pointer, 4 * model.n_vocab), dtype=np.float32).astype(np.float64)
    found = logits - logits.max()
    found -= np.log(np.exp(found).sum())
    best = np.argsort(-found, kind="stable")[:_TOP]
    return {"token": int(best[0]), "top": {int(token): float(found[token]) for token in best}}


if __name__ == "__main__":
    _serve(json.load(sys.stdin))
