"""Other engines load the checkpoints made here. mistral.rs is part of the ``dev`` extra, so it is never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.answers.tokens import compare_tokens
from parity.cases.case import SeededCheckpoint
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines.questions import Question
from parity.engines.registry import NAMES, engine
from parity.runs.loader import Loader

PROMPT = "How many legs has a spider?"


@pytest.mark.engine
@pytest.mark.parametrize("shape", ["tiny", "tiny-tied"])
def test_mistral_rs_gives_the_ports_greedy_tokens(shape: str, loader: Loader) -> None:
    folder = loader.checkpoint(SeededCheckpoint(shape))
    found = compare_tokens(engine("mistralrs"), folder, PROMPT, images=[], steps=16, loader=loader)
    assert found.verdict is Verdict.PARITY, (found.port_tokens, found.engine_tokens)
    assert len(set(found.port_tokens)) > 4, "a model that repeats itself proves little"
    # float32 noise of both engines together; measured 7e-6 to 2.2e-5.
    assert found.largest_difference is not None
    assert found.largest_difference < 2e-4


@pytest.mark.engine
def test_another_checkpoint_gives_other_tokens(loader: Loader) -> None:
    """The check can fail: the engine runs on one seed, the port on another."""
    ours, theirs = (loader.checkpoint(SeededCheckpoint("tiny", seed=seed)) for seed in (0, 1))

    class OnAnotherCheckpoint:
        title = "mistral.rs on another checkpoint"

        def unavailable(self) -> str | None:
            return None

        def reads_mp4(self) -> bool:
            return False

        def answer(self, _folder: Path, questions: list[Question], **options: object) -> object:
            return engine("mistralrs").answer(theirs, questions, **options)  # type: ignore[arg-type]

    found = compare_tokens(OnAnotherCheckpoint(), ours, PROMPT, images=[], steps=4, loader=loader)  # type: ignore[arg-type]
    assert found.verdict is Verdict.DIVERGED


def test_an_absent_folder_is_said_before_the_engine_starts(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="does not exist"):
        engine("mistralrs").answer(tmp_path / "nowhere", [Question.about("Hi")], max_new_tokens=1)


def test_every_registered_engine_can_be_made_and_says_who_it_is() -> None:
    titles = [engine(name).title for name in NAMES]
    assert len(set(titles)) == len(NAMES)
    installed = {name for name in NAMES if engine(name).unavailable() is None}
    assert installed >= set(NAMES) - {"llamacpp", "llama-server"}, "the dev extra installs every other engine"


def test_an_unknown_engine_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ParityError, match="there is no engine 'nowhere'; choose from reference, port, mistralrs"):
        engine("nowhere")
