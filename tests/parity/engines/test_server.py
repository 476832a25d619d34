"""The client of OpenAI servers: what it sends, what it takes, and what it does with a server that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from parity.core.errors import ParityError
from parity.engines import server as module
from parity.engines.questions import Question
from parity.engines.server import Server
from reference.media import PicturePath

Reply = Callable[[dict[str, Any]], tuple[int, Any]]


class _Stub(BaseHTTPRequestHandler):
    replies: ClassVar[list[Reply]] = []
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        status, answer = self.replies[min(len(self.asked), len(self.replies)) - 1](body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(module, "_WAIT", 0.01)
    _Stub.replies, _Stub.asked = [lambda body: (200, _answer(body))], []
    served = HTTPServer(("127.0.0.1", 0), _Stub)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


def _answer(body: dict[str, Any], **entry: Any) -> dict[str, Any]:
    one = {"token": "a", "id": 7, "logprob": -0.1, **entry}
    content = [{**one, "top_logprobs": [one, {"token": "token_id:9", "logprob": -2.5}]}] * body["max_tokens"]
    return {
        "choices": [{"message": {"content": "aa"}, "logprobs": {"content": content}}],
        "usage": {"prompt_tokens": 5},
    }


def _ask(url: str, question: Question, **options: Any) -> Any:
    (answer,) = Server(url, **options).answer(Path(), [question], max_new_tokens=2, ignore_end=True)
    return answer


def test_tokens_and_log_probabilities_come_back(url: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"pixels")
    answer = _ask(url, Question.about("What?", [picture]))
    assert [token.token_id for token in answer.tokens] == [7, 7]
    assert answer.tokens[0].top == {7: -0.1, 9: -2.5}
    assert answer.prompt_tokens == 5
    (sent,) = _Stub.asked
    assert sent["temperature"] == 0
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["image_url", "text"]
    assert sent["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_texts_and_pictures_keep_their_order(url: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"pixels")
    _ask(url, Question(["First: ", PicturePath(picture), " and then?"]))
    content = _Stub.asked[0]["messages"][0]["content"]
    assert [part.get("text") for part in content] == ["First: ", None, " and then?"]
    _ask(url, Question(["Only text"]))
    assert _Stub.asked[1]["messages"][0]["content"] == "Only text"


def _without(body: dict[str, Any], *left_out: int, finish: str = "length") -> tuple[int, Any]:
    """An answer that lists all tokens but those at some places."""
    found = _answer(body)
    listed = found["choices"][0]["logprobs"]["content"]
    found["usage"]["completion_tokens"] = len(listed)
    found["choices"][0]["finish_reason"] = finish
    found["choices"][0]["logprobs"]["content"] = [one for at, one in enumerate(listed) if at not in left_out]
    return 200, found


def test_an_end_token_need_not_be_listed(url: str) -> None:
    _Stub.replies = [lambda body: _without(body, 1, finish="stop")]
    assert len(_ask(url, Question.about("Hi")).tokens) == 1
    assert len(_Stub.asked) == 1


def test_where_a_token_is_left_out_the_answer_ends(url: str) -> None:
    _Stub.replies = [lambda body: _without(body, 1)]
    assert len(_ask(url, Question.about("Hi")).tokens) == 1
    assert [asked["max_tokens"] for asked in _Stub.asked] == [2, 1]
    _Stub.replies = [lambda body: _without(body, 0)]
    with pytest.raises(ParityError, match="no log-probabilities of the first of 1 tokens"):
        _ask(url, Question.about("Hi"))


def test_an_end_token_that_is_never_taken_ends_the_comparison(url: str) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        found = _answer(body)
        taken, likelier = {"token": "b", "id": 8, "logprob": -9.0}, {"token": "end", "id": 3, "logprob": -0.01}
        found["choices"][0]["logprobs"]["content"][1] = {**taken, "top_logprobs": [likelier, taken]}
        return 200, found

    _Stub.replies = [reply]
    assert [token.token_id for token in _ask(url, Question.about("Hi")).tokens] == [7, 3]
    (sampled,) = Server(url).answer(Path(), [Question.about("Hi")], max_new_tokens=2)
    assert [token.token_id for token in sampled.tokens] == [7, 8]


def test_a_busy_server_is_asked_again(url: str) -> None:
    _Stub.replies = [lambda _: (503, {}), lambda _: (503, {}), lambda body: (200, _answer(body))]
    assert len(_ask(url, Question.about("Hi")).tokens) == 2
    assert len(_Stub.asked) == 3


@pytest.mark.parametrize(
    ("reply", "words", "times"),
    [
        (lambda _: (400, {"error": "no"}), "HTTP 400", 1),
        (lambda _: (503, {}), "HTTP 503", 4),
        (lambda _: (200, {"choices": []}), "without tokens and log-probabilities", 1),
        (lambda body: (200, _answer(body, id=None)), "has no id", 1),
    ],
)
def test_a_server_that_fails_is_an_error(reply: Reply, words: str, times: int, url: str) -> None:
    _Stub.replies = [reply]
    with pytest.raises(ParityError, match=words):
        _ask(url, Question.about("Hi"))
    assert len(_Stub.asked) == times


def test_a_server_that_does_not_answer_in_time(url: str) -> None:
    release = threading.Event()

    def wait(body: dict[str, Any]) -> tuple[int, Any]:
        release.wait(2)
        return 200, _answer(body)

    _Stub.replies = [wait]
    try:
        with pytest.raises(ParityError, match=r"no answer in 0\.2 s"):
            _ask(url, Question.about("Hi"), timeout=0.2)
    finally:
        release.set()


def test_no_server_is_an_error() -> None:
    with pytest.raises(ParityError, match="start the server"):
        _ask("http://127.0.0.1:9", Question.about("Hi"), tries=1)
    with pytest.raises(ParityError, match="is no URL"):
        Server("file:///etc/passwd")
