"""Other requests: what is kept from one for another is seen, failed requests included, and files come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import port.processor
from parity.cases.case import Case
from parity.cases.registry import every_case
from parity.engines.busy import BusyPortEngine
from parity.mutants.base import altered, around
from parity.runs.case_run import Result, run_case
from parity.runs.loader import Loader
from parity.seams.calls import CALLS
from port.model import Qwen3VL


def diverged(result: Result) -> tuple[str, str]:
    """The seam and step of the first divergence of a result."""
    assert result.judgement.first_divergence is not None, result.judgement.reason
    entry = result.findings[result.judgement.first_divergence].entry
    return entry.key.name, entry.step


def short(name: str, **changes: Any) -> Case:
    return replace(every_case()[name], **changes)


@pytest.fixture(scope="module")
def run(loader: Loader) -> Callable[[Case], Result]:
    return lambda case: run_case(case, loader, dtype="float32").result


def by_count() -> AbstractContextManager[None]:
    """The angles of the tower are kept by the number of patches."""
    kept: dict[int, torch.Tensor] = {}
    return altered("vision.rope_cos", lambda value: kept.setdefault(len(value), value))


def test_a_sum_of_patches_is_no_key(run: Callable[[Case], Result]) -> None:
    case = short("requests-alike", decode_steps=0)
    with by_count():
        assert diverged(run(case)) == ("vision.rope_cos", "prefill, images")
    # Without the requests before it, the same mistake does not show.
    with by_count():
        assert run(replace(case, before=(), between=())).judgement.verdict.name == "PARITY"


def test_requests_in_between_do_not_share_a_cache(run: Callable[[Case], Result]) -> None:
    memory: dict[tuple[int, ...], torch.Tensor] = {}

    def pooled(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._keys = memory.setdefault(tuple(self._keys.shape), self._keys)

    case = short("requests-alike", before=(), decode_steps=1)
    with around(port.cache.KVCache, "__init__", pooled):
        name, step = diverged(run(case))
    assert name.endswith("k_cache")
    assert step == "decode 1"


def test_a_failed_request_leaves_nothing(run: Callable[[Case], Result]) -> None:
    left: list[int] = []

    def prefill(original: Any, self: Any, inputs: Any, cache: Any, **options: Any) -> Any:
        try:
            return original(self, inputs, cache, **options)
        except Exception:
            left.append(1)
            raise

    with around(Qwen3VL, "prefill", prefill), altered("logits", lambda x: x + len(left)):
        assert diverged(run(short("requests-alike", decode_steps=0)))[0] == "logits"
    assert len(left) >= 3


@contextmanager
def names_kept() -> Iterator[None]:
    """Pictures are kept by the name of their file."""
    kept: dict[str, Any] = {}

    def load(original: Any, source: Any, limits: Any) -> Any:
        return kept.setdefault(str(source), original(source, limits))

    with around(port.processor, "load_picture", load):
        yield


def test_a_name_is_no_key(run: Callable[[Case], Result]) -> None:
    with names_kept():
        assert diverged(run(every_case()["requests-files"])) == ("processor.images.0.decoded", "processor")


def test_files_of_the_judged_request_come_back(loader: Loader) -> None:
    case = every_case()["requests-files"]
    folder = loader.checkpoint(case.checkpoint)
    stage = loader.inputs(case, folder).processed
    spool = Path(stage.batch.spool.name)
    before = {path.name: path.read_bytes() for path in spool.iterdir()}
    loader.port_processor(folder, case).process(stage.batch, lambda _name, _tensor: None)
    assert {path.name: path.read_bytes() for path in spool.iterdir()} == before


def test_a_request_of_the_same_shapes_is_served_from_the_same_memory(loader: Loader) -> None:
    case = every_case()["requests-alike"]
    folder = loader.checkpoint(case.checkpoint)
    seen: list[int] = []

    def prefill(original: Any, self: Any, inputs: Any, cache: Any, **options: Any) -> Any:
        seen.append(inputs.input_ids.data_ptr())
        return original(self, inputs, cache, **options)

    with around(Qwen3VL, "prefill", prefill), torch.no_grad():
        others = loader.other_requests(case, folder)
        engine = BusyPortEngine(loader.port(folder, "float32"), others)
        engine.session(loader.inputs(case, folder).tensors, steps=0).prefill()
    assert seen.count(seen[-1]) > 3


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_other_calls_are_judged(side: str, run: Callable[[Case], Result]) -> None:
    result = run(every_case()[f"calls-{side}"])
    assert [finding.entry.key.name for finding in result.findings] == [spec.name for spec in CALLS]
    assert result.judgement.verdict.name == "PARITY"
    with around(port.model, "last_real", lambda original, mask: original(mask) - 1):
        assert diverged(run(every_case()[f"calls-{side}"])) == ("prefill_last.logits", "other calls")


def test_what_is_accepted_is_named(run: Callable[[Case], Result]) -> None:
    with around(port.json_fields.Fields, "require", lambda *_: None):
        result = run(every_case()["bad-input"])
    failed = [finding.entry.key.name for finding in result.findings if not finding.passed]
    assert "refused.config.another rope" in failed
    assert "refused.settings.another kernel" in failed
    assert len(failed) < 12
