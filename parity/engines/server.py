"""An engine behind a server that follows the OpenAI protocol: llama.cpp's llama-server, mistralrs serve, vLLM.

The server is a process of its own, which the user starts. It is asked for greedy tokens with log-probabilities. Answers
are limited in size and time, and a request that fails because the server is busy or starting is sent again.
"""

from __future__ import annotations

import base64
import json
import math
import mimetypes
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from parity.core.errors import ParityError
from parity.engines.questions import Answer, Question, Token

_MOST_BYTES = 64 * 2**20
_TOP = 20
_WAIT = 0.5  # seconds before the second try; doubled for each further one
_TRIES_AGAIN = (429, 500, 502, 503, 504)


class Server:
    """The server at ``url``, such as http://127.0.0.1:8080. ``model`` is the name that it knows the model by."""

    def __init__(self, url: str, *, model: str = "default", timeout: float = 300.0, tries: int = 4) -> None:
        """Raises ParityError for a URL that is not of HTTP."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ParityError(f"{url!r} is no URL of a server; write for example http://127.0.0.1:8080")
        self.url, self.model, self.timeout, self.tries = url.rstrip("/"), model, timeout, max(1, tries)

    @property
    def title(self) -> str:
        return f"server {self.url}"

    def unavailable(self) -> str | None:
        return None

    def reads_mp4(self) -> bool:
        return False

    def answer(
        self, folder: Path, questions: Sequence[Question], *, max_new_tokens: int, ignore_end: bool = False
    ) -> list[Answer]:
        """Ask one question after the other. Raises ParityError if the server does not answer, or without token ids."""
        return [self._answer(question, max_new_tokens, ignore_end) for question in questions]

    def _answer(self, question: Question, steps: int, ignore_end: bool) -> Answer:
        if question.videos:
            raise ParityError("the OpenAI protocol has no videos; ask about pictures or text")
        content = question.content(lambda _kind, path: {"type": "image_url", "image_url": {"url": _data_url(path)}})
        found = self._post(
            "/v1/chat/completions",
            {
                "model": self.model,
                "messages": [{"role": "user", "content": content if len(content) > 1 else content[0]["text"]}],
                "max_tokens": steps,
                "temperature": 0.0,
                "logprobs": True,
                "top_logprobs": _TOP,
                "ignore_eos": ignore_end,
                "cache_prompt": False,
                "return_tokens_as_token_ids": True,  # vLLM
            },
        )
        try:
            choice = found["choices"][0]
            steps_given = choice["logprobs"]["content"]
            tokens = [
                Token(_id(step), {_id(one): float(one["logprob"]) for one in step["top_logprobs"]})
                for step in steps_given
            ]
            answer = Answer(tokens, str(choice["message"].get("content") or ""), int(found["usage"]["prompt_tokens"]))
            generated = int(found["usage"].get("completion_tokens", len(tokens)))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ParityError(
                f"{self.url} answers without tokens and log-probabilities ({type(error).__name__}: {error}); it must "
                "give choices[0].logprobs.content with token ids"
            ) from None
        # An end token may count as generated and yet not be listed.
        if len(tokens) >= generated - (choice.get("finish_reason") == "stop"):
            return _greedy(answer) if ignore_end else answer
        if not tokens:
            raise ParityError(
                f"{self.url} gives no log-probabilities of the first of {generated} tokens; llama.cpp leaves out a "
                "token that ends inside a character. Ask about another case"
            )
        # A token was left out, and the places of the rest are not known. A shorter answer may have them all.
        return self._answer(question, len(tokens), ignore_end)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        why = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(_WAIT * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    text = response.read(_MOST_BYTES + 1)
                if len(text) > _MOST_BYTES:
                    raise ParityError(f"{self.url} answers with more than {_MOST_BYTES:,} bytes")
                return json.loads(text)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {error.read(300).decode(errors='replace')}"
                if error.code not in _TRIES_AGAIN:
                    break
            except TimeoutError:
                raise ParityError(f"{self.url} gave no answer in {self.timeout:g} s; raise --timeout") from None
            except (OSError, ValueError) as error:
                if isinstance(getattr(error, "reason", None), TimeoutError):
                    raise ParityError(f"{self.url} gave no answer in {self.timeout:g} s; raise --timeout") from None
                if isinstance(error, ParityError):
                    raise
                why = str(error)
        raise ParityError(f"{self.url} cannot be asked: {why}; start the server, and name its address with --url")


def _greedy(answer: Answer) -> Answer:
    """Return the answer up to the first token that is not the likeliest, which takes its place.

    llama.cpp goes on after an end token by never taking it. The tokens after that are of another context.
    """
    for at, token in enumerate(answer.tokens):
        likeliest = max(token.top, key=lambda one: token.top[one], default=token.token_id)
        if token.top.get(likeliest, 0.0) > token.top.get(token.token_id, -math.inf):
            return Answer([*answer.tokens[:at], Token(likeliest, token.top)], answer.text, answer.prompt_tokens)
    return answer


def _id(entry: Mapping[str, Any]) -> int:
    """The id of a token: llama.cpp gives it beside the text, vLLM as the text."""
    if isinstance(entry.get("id"), int):
        return int(entry["id"])
    text = str(entry["token"])
    if text.startswith("token_id:"):
        return int(text.removeprefix("token_id:"))
    raise ValueError(f"the token {text!r} has no id")


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
