"""Other engines load the checkpoints made here. mistral.rs is part of the ``dev`` extra, so it is never skipped."""

from __future__ import annotations

from typing import Any

import pytest

from parity.core.errors import ParityError
from parity.qwen3vl import mistralrs
from parity.qwen3vl.cases import SeededCheckpoint
from parity.qwen3vl.greedy import compare_greedy


@pytest.mark.engine
@pytest.mark.parametrize("shape", ["tiny", "tiny-tied"])
def test_mistral_rs_gives_the_ports_greedy_tokens(shape: str, bench: Any) -> None:
    folder = bench.checkpoint(SeededCheckpoint(shape))
    found = compare_greedy(folder, "How many legs has a spider?", images=[], steps=16, bench=bench)
    assert found.same, (found.port_tokens, found.engine_tokens)
    assert len(set(found.port_tokens)) > 4, "a model that repeats itself proves little"
    # float32 noise of both engines together; measured 7e-6 to 2.2e-5.
    assert max(found.logprob_differences) < 2e-4


@pytest.mark.engine
def test_another_checkpoint_gives_other_tokens(bench: Any) -> None:
    """The check can fail: the engine on one seed, the port on another."""
    ours = bench.checkpoint(SeededCheckpoint("tiny", seed=0))
    theirs = mistralrs.generate(
        bench.checkpoint(SeededCheckpoint("tiny", seed=1)), "How many legs has a spider?", images=[], steps=4
    )
    found = compare_greedy(ours, "How many legs has a spider?", images=[], steps=4, bench=bench)
    assert [step.token_id for step in theirs.steps] != found.port_tokens


def test_an_absent_folder_is_said_before_the_engine_starts(tmp_path: Any) -> None:
    with pytest.raises(ParityError, match="does not exist"):
        mistralrs.generate(tmp_path / "nowhere", "Hi", images=[], steps=1)
