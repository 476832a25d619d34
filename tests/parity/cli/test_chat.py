"""``parity chat``: one question, several questions, refused input, and the end of a chat."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import parity.answers.chat as subject
import port
from parity.cli.commands import chat as command
from parity.cli.console import harmless
from parity.cli.main import main
from port import GenerationConfig, Processor, generate_all, load_model
from tests.parity.cli.samples import Answer, Parity, change_json, picture

COMMAND = [sys.executable, "-m", "parity", "chat"]
SPEED = re.compile(
    r"processor \d+\.\d\d s; \d+ prompt tokens \(\d+ of pictures and videos\) in \d+\.\d\d s: [\d.]+ tokens/s; "
    r"(\d+ new tokens, [\d.]+ tokens/s|1 new token)(, cut off by --max-new-tokens)?\n"
)
Turn = tuple[str, str | Sequence[dict[str, Any]]]


@pytest.fixture(scope="module")
def expect(tiny: Path) -> Callable[..., list[int]]:
    """The greedy tokens that the port gives to a conversation of (role, content) turns."""
    model, processor = load_model(tiny), Processor.load(tiny)
    ends = GenerationConfig.from_folder(tiny).eos_token_ids

    def tokens(*turns: Turn, most: int, **choice: Any) -> list[int]:
        conversation = [{"role": role, "content": content} for role, content in turns]
        config = GenerationConfig(eos_token_ids=ends, **choice)
        return generate_all(model, processor([conversation]), config, max_new_tokens=most)[0]

    return tokens


@pytest.fixture(scope="module")
def words(tiny: Path) -> Callable[[Sequence[int]], str]:
    return Processor.load(tiny).decode


def _shown(text: str) -> str:
    """Return a text of the tiny model, which is noise, as it is shown."""
    return harmless(text) + "\n"


# One question


def test_one_question_streams_its_answer_and_then_says_how_fast(
    parity: Parity, tiny: Path, expect: Callable[..., list[int]], words: Callable[[Sequence[int]], str]
) -> None:
    answer = parity("chat", tiny, "--prompt", "How many legs?", "--max-new-tokens", 12)
    assert answer.code == 0
    assert answer.stdout == _shown(words(expect(("user", "How many legs?"), most=12)))
    assert SPEED.fullmatch(answer.stderr), answer.stderr
    assert "12 new tokens" in answer.stderr
    assert "cut off" in answer.stderr


def test_json_is_one_document_with_pictures_and_videos_counted(
    parity: Parity, tiny: Path, media: Path, expect: Callable[..., list[int]], words: Callable[[Sequence[int]], str]
) -> None:
    image, video = media / "good.png", media / "good.mp4"
    options = ("--image", image, "--image", image, "--video", video, "--prompt", "What?", "--max-new-tokens", 9)
    answer = parity("chat", tiny, *options, "--json")
    answer.succeeds()
    document = json.loads(answer.stdout)
    picture_part = {"type": "image", "image": image}
    content = [picture_part, picture_part, {"type": "video", "video": video}, {"type": "text", "text": "What?"}]
    tokens = expect(("user", content), most=9)
    assert (document["tokens"], document["text"]) == (tokens, words(tokens))
    inputs = Processor.load(tiny)([[{"role": "user", "content": content}]])
    assert inputs.image_grid_thw is not None
    assert inputs.video_grid_thw is not None
    features = int(inputs.image_grid_thw.prod(1).sum() + inputs.video_grid_thw.prod(1).sum()) // 4
    assert (document["prompt_tokens"], document["vision_tokens"]) == (inputs.input_ids.shape[1], features)
    assert document["ended"] is False
    assert all(document[name] > 0 for name in ("processor_seconds", "prefill_seconds", "decode_seconds"))


def test_chunks_change_nothing(parity: Parity, tiny: Path, media: Path) -> None:
    options = ("chat", tiny, "--image", media / "good.png", "--prompt", "What?", "--max-new-tokens", 9)
    assert parity(*options, "--chunk", 7).stdout == parity(*options).stdout


def test_an_answer_ends_with_the_checkpoints_own_token_which_is_not_shown(
    parity: Parity, copy: Path, expect: Callable[..., list[int]], words: Callable[[Sequence[int]], str]
) -> None:
    tokens = expect(("user", "Hi"), most=8)
    change_json(copy / "generation_config.json", ["eos_token_id"], [tokens[4]])
    document = json.loads(parity("chat", copy, "--prompt", "Hi", "--json").stdout)
    assert document["tokens"] == tokens[: tokens.index(tokens[4]) + 1]
    assert document["ended"] is True
    answer = parity("chat", copy, "--prompt", "Hi")
    assert "cut off" not in answer.stderr
    assert SPEED.fullmatch(answer.stderr)


def test_the_number_of_tokens_is_the_users_else_the_checkpoints(parity: Parity, copy: Path) -> None:
    change_json(copy / "generation_config.json", ["max_new_tokens"], 5)
    for extra, count in (((), 5), (("--max-new-tokens", 3), 3)):
        document = json.loads(parity("chat", copy, "--prompt", "Hi", "--json", *extra).stdout)
        assert len(document["tokens"]) == count


def test_sampling_follows_the_options_and_the_seed(
    parity: Parity, tiny: Path, copy: Path, expect: Callable[..., list[int]]
) -> None:
    def tokens(folder: Path, *options: object) -> list[int]:
        answer = parity("chat", folder, "--prompt", "Hi", "--max-new-tokens", 8, "--json", *options)
        return json.loads(answer.stdout)["tokens"]

    greedy = tokens(tiny)
    assert tokens(tiny, "--temperature", 0.9) == tokens(tiny, "--temperature", 0.9) != greedy
    wanted = expect(("user", "Hi"), most=8, do_sample=True, temperature=0.9, top_k=50)
    assert tokens(tiny, "--temperature", 0.9) == wanted, "what is not given is the checkpoint's"
    assert tokens(tiny, "--temperature", 0.9) != tokens(tiny, "--temperature", 0.9, "--seed", 1)
    assert tokens(tiny, "--top-k", 1) == greedy == tokens(tiny, "--top-p", 0)
    wanted = expect(("user", "Hi"), most=8, repetition_penalty=5.0)
    assert tokens(tiny, "--repetition-penalty", 5) == wanted, "a penalty alone stays greedy"
    change_json(copy / "generation_config.json", ["do_sample"], True)
    assert tokens(copy) != greedy == tokens(copy, "--greedy")


def test_without_a_model_the_trained_one_says_what_it_sees(parity: Parity, work: Path) -> None:
    parity("scenes", "shown", "--pictures", 3, "--clips", 2).succeeds()
    questions = json.loads((work / "shown" / "questions.json").read_text(encoding="utf-8"))
    assert len(questions) == 20
    right = 0
    for line in questions:
        kind = "--video" if line["file"].endswith(".mp4") else "--image"
        answer = parity("chat", kind, work / "shown" / line["file"], "--prompt", line["question"])
        assert answer.code == 0, answer.stderr
        assert SPEED.fullmatch(answer.stderr), answer.stderr
        assert "cut off" not in answer.stderr
        right += answer.stdout == line["answer"] + "\n"
    # Of a hundred of its answers one is wrong, see ``parity exam``.
    assert right >= 19, right


def test_text_comes_before_the_answer_is_complete(tiny: Path, words: Callable[[Sequence[int]], str]) -> None:
    config = GenerationConfig(max_new_tokens=20)
    talk = subject.Chat(load_model(tiny), Processor.load(tiny), config)
    answer = subject.ChatAnswer()
    pieces, lengths = [], []
    for piece in talk.ask([{"type": "text", "text": "Hi"}], answer):
        pieces.append(piece)
        lengths.append(len(answer.tokens))
    assert lengths[0] <= 3
    assert len(set(lengths)) > 5
    assert len(answer.tokens) == 20
    assert "".join(pieces) == answer.text == words(answer.tokens), "bytes that end in no whole character included"


def test_a_model_cannot_control_the_terminal() -> None:
    assert harmless("a\x1b[2J\x07b\r\x9b1m\n\tä中🙂") == "a\ufffd[2J\ufffdb\ufffd\ufffd1m\n\tä中🙂"


# Refusals


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--image", "absent.png"), "absent.png"),
        (("--video", "absent.mp4"), "absent.mp4"),
        (("--image", "text.png"), "text.png"),
        (("--greedy", "--temperature", "0.5"), "--greedy takes no --temperature"),
        (("--greedy", "--top-p", "0.5"), "--greedy takes no --top-p"),
        (("--temperature", "0"), "--temperature"),
        (("--top-p", "1.5"), "--top-p"),
        (("--max-new-tokens", "0"), "--max-new-tokens"),
    ],
)
def test_bad_options_are_named(parity: Parity, tiny: Path, work: Path, options: Sequence[str], word: str) -> None:
    (work / "text.png").write_text("no picture")
    parity("chat", tiny, "--prompt", "Hi", *options).refuses(word)


def test_a_placeholder_in_the_prompt_is_refused(parity: Parity, tiny: Path) -> None:
    parity("chat", tiny, "--prompt", "see <|image_pad|>").refuses("<|image_pad|>")


def test_json_needs_a_question(parity: Parity, tiny: Path) -> None:
    parity("chat", tiny, "--json").refuses("--json answers one question; give --prompt")


def test_a_model_that_is_not_there(parity: Parity, work: Path) -> None:
    parity("chat", work / "nowhere", "--prompt", "Hi").refuses("nowhere is not a folder")
    parity("chat", work, "--prompt", "Hi").refuses("config.json does not exist")


def test_a_generation_config_that_cannot_be_followed(parity: Parity, copy: Path) -> None:
    path = copy / "generation_config.json"
    change_json(path, ["num_beams"], 4)
    parity("chat", copy, "--prompt", "Hi").refuses("generation_config.json: num_beams is 4")
    path.unlink()
    parity("chat", copy, "--prompt", "Hi").refuses("generation_config.json does not exist")


def test_it_starts_without_transformers_and_whatever_else_is_slow(tiny: Path, media: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('transformers', 'torchvision', 'torch._dynamo', 'huggingface_hub', 'matplotlib', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "from parity.cli.main import main\nmain()"
    )
    arguments = ["chat", str(tiny), "--image", str(media / "good.png"), "--video", str(media / "good.mp4")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--prompt", "Hi", "--max-new-tokens", "3", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["tokens"]) == 3


# Many questions


def _talk(folder: Path, *lines: str, options: Sequence[object] = ("--max-new-tokens", 6)) -> Answer:
    arguments = ["chat", str(folder), *map(str, options)]
    result = CliRunner().invoke(main, arguments, input="".join(f"{line}\n" for line in lines))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def test_a_conversation_remembers_its_turns_and_pictures(
    tiny: Path, media: Path, expect: Callable[..., list[int]], words: Callable[[Sequence[int]], str]
) -> None:
    image = media / "good.png"
    first: list[dict[str, Any]] = [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]
    said = [words(expect(("user", first), most=6))]
    turns: list[Turn] = [("user", first), ("assistant", said[0]), ("user", "And now?")]
    said.append(words(expect(*turns, most=6)))
    said.append(words(expect(("user", "And now?"), most=6)))
    assert len(set(said)) == 3
    answer = _talk(tiny, f"/image {image}", "What is it?", "", "And now?", "/clear", "And now?", "/quit", "unread")
    assert answer.code == 0
    assert answer.stdout == "".join(map(_shown, said))
    assert len(SPEED.findall(answer.stderr)) == 3
    assert _talk(tiny, "And now?").stdout == _shown(said[2]), "the end of the input ends it too"


def test_options_give_the_first_question_its_media(tiny: Path, media: Path) -> None:
    by_option = _talk(tiny, "What?", options=("--max-new-tokens", 6, "--video", media / "good.mp4"))
    assert by_option.stdout == _talk(tiny, f"/video {media / 'good.mp4'}", "What?").stdout
    assert by_option.stdout != _talk(tiny, "What?").stdout


def test_bad_lines_are_said_and_the_chat_goes_on(tiny: Path, media: Path, work: Path) -> None:
    (work / "text.png").write_text("no picture")
    lines = ("/image absent.png", "/what", "/image", "/image text.png", "Lost.", "see <|image_pad|>", "Hi")
    answer = _talk(tiny, *lines)
    assert answer.code == 0
    assert answer.stdout == _talk(tiny, "Hi").stdout
    for words in ("there is no absent.png", "text.png", "add the good ones again", "<|image_pad|>"):
        assert words in answer.stderr, answer.stderr
    assert answer.stderr.count(command._HELP) == 3
    assert "Traceback" not in answer.stderr


# Terminals, pipes and signals


@dataclass
class Terminal:
    """The command on its own terminal: reads its output and types input."""

    process: subprocess.Popen[bytes]
    fd: int
    shown: str = ""
    seen: int = field(default=0)

    def wait_for(self, pattern: str) -> None:
        """Read until the pattern comes, after the last one that was waited for."""
        end = time.monotonic() + 60
        while not (found := re.compile(pattern).search(self.shown, self.seen)):
            if time.monotonic() > end or not self._read():
                raise AssertionError(f"{pattern!r} never came: {self.shown!r}")
        self.seen = found.end()

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(timeout=60)

    def interrupt_the_prompt(self) -> None:
        """Send Ctrl-C until it works. Python misses one in the microseconds between the prompt and its value."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            if self._read(3):
                return
        raise AssertionError(f"Ctrl-C was never heeded: {self.shown!r}")

    def _read(self, seconds: float = 60) -> bool:
        """Return whether more was shown within this many seconds."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self.fd, 65536)
        except OSError:  # Linux says so when the other end has closed
            return False
        self.shown += piece.decode(errors="replace")
        return bool(piece)


@pytest.fixture
def terminal(tiny: Path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, str(tiny), *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(theirs)
        started.append(Terminal(process, ours))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        os.close(each.fd)


LONG = ("--max-new-tokens", 100_000, "--temperature", 1, "--top-k", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_one_answer(terminal: Callable[..., Terminal], copy: Path, number: int) -> None:
    talk = terminal("--prompt", "Hi", *LONG)
    talk.wait_for(r".{20}")
    talk.process.send_signal(number)
    assert talk.end() == 128 + number
    assert "\r\nparity: interrupted" in talk.shown, "on a line of its own"
    assert "Traceback" not in talk.shown


def test_ctrl_c_ends_an_answer_and_then_the_chat(terminal: Callable[..., Terminal]) -> None:
    talk = terminal(*LONG)
    talk.wait_for("> ")
    talk.type("First\n")
    talk.wait_for(r"First\r\n(?s:.{20})")
    talk.process.send_signal(signal.SIGINT)
    talk.wait_for("\r\n> ")
    talk.type("Second\n")
    talk.wait_for(r"Second\r\n(?s:.{20})")
    talk.process.send_signal(signal.SIGINT)
    talk.wait_for("\r\n> ")
    talk.interrupt_the_prompt()
    assert talk.end() == 130
    assert talk.shown.count("parity: interrupted") == 1
    assert "written" not in talk.shown, "a chat writes nothing"
    assert "Traceback" not in talk.shown


def test_sigterm_ends_the_chat_also_in_an_answer(terminal: Callable[..., Terminal]) -> None:
    talk = terminal(*LONG)
    talk.wait_for("> ")
    talk.type("First\n")
    talk.wait_for(r"First\r\n(?s:.{20})")
    talk.process.send_signal(signal.SIGTERM)
    assert talk.end() == 143


def test_ctrl_d_ends_the_chat_in_peace(terminal: Callable[..., Terminal]) -> None:
    talk = terminal()
    talk.wait_for("> ")
    talk.type("\x04")
    assert talk.end() == 0


def test_what_was_said_before_an_interrupt_is_remembered(
    tiny: Path, media: Path, monkeypatch: pytest.MonkeyPatch, words: Callable[[Sequence[int]], str]
) -> None:
    talk = subject.Chat(load_model(tiny), Processor.load(tiny), GenerationConfig(max_new_tokens=20))
    image = [{"type": "image", "image": media / "good.png"}]

    def interrupt_after(count: int) -> None:
        left = [count]

        def generate(*arguments: Any, **options: Any) -> Iterator[Any]:
            for step in own(*arguments, **options):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                yield step

        monkeypatch.setattr(subject, "generate", generate)

    own = port.generate
    interrupt_after(0)
    assert command._answered(talk, image, "What?") == image, "nothing was said, so the picture waits on"
    assert talk.messages == []
    interrupt_after(7)
    assert command._answered(talk, image, "What?") == []
    question, reply = talk.messages
    assert question["content"] == [*image, {"type": "text", "text": "What?"}]
    said = reply["content"][0]["text"]
    assert said
    monkeypatch.setattr(subject, "generate", own)
    answer = subject.ChatAnswer()
    talk.messages = []
    list(talk.ask(question["content"], answer))
    assert words(answer.tokens[:7]).startswith(said)


def test_a_reader_that_goes_away_is_no_error(tiny: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(tiny), "--prompt", "Hi", "--max-new-tokens", "50"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_a_picture_in_a_folder_with_blanks(tiny: Path, work: Path) -> None:
    folder = work / "my pictures"
    folder.mkdir()
    picture(folder / "a b.png")
    assert _talk(tiny, "/image my pictures/a b.png", "What?").stdout != _talk(tiny, "What?").stdout
