"""Port and harness on a device that is not the CPU. It pretends to be cuda:0, see ``tests.pretend_device``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import port.model
import port.text
import reference.model
from parity.answers.chat import Chat, ChatAnswer
from parity.bench.limits import measure_limits
from parity.bench.models import measure
from parity.bench.session import curve_works, works
from parity.bench.works import Sizes, loaded_sides
from parity.cases.case import TINY, Case, Request
from parity.cases.media import Clip, Noise
from parity.core.errors import ParityError
from parity.core.trace import SeamKey
from parity.core.verdict import Verdict
from parity.documents.environment import environment
from parity.documents.run import write_run
from parity.engines.device import finishing
from parity.engines.port import PortEngine
from parity.kernels import plain
from parity.kernels.numpy_kernels import NumpyKernels
from parity.mutants.base import replaced
from parity.runs.case_run import CaseRun, Result, run_case, subject_of
from parity.runs.loader import Loader
from parity.runs.recorder import Recorder
from parity.runs.stages.model_stage import floor_variants
from parity.runs.stages.stage import judge_stage
from port import GenerationConfig, Inputs, Processor, generate_all, grid, load_model
from port.cache import KVCache
from port.kernels import PLAIN, kernels_of
from reference import nudge
from tests.pretend_device import DEVICE, Mixed, PretendTensor, pretending

SAMPLED = (("do_sample", True), ("eos_token_id", 1), ("top_k", 30), ("repetition_penalty", 1.2))
ROWS = (("See ", Noise(32, 64, seed=3)), ("And? ", Clip(2, 32, 32)))
SMALL = Case(
    "small",
    "a picture and a clip, padded right, in chunks",
    4,
    TINY,
    ROWS,
    padding_side="right",
    decode_steps=1,
    chunk=9,
)
EVERY_STAGE = replace(
    SMALL,
    stages=("processor", "model", "calls", "generation", "weights"),
    requests=(Request(SAMPLED, max_new_tokens=2, seed=5),),
)
TEXT = Case("text", "text", 4, TINY, (("Hi.",),), decode_steps=1)


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """One thread, and sums in few parts: every operation costs much on a device that is made of Python."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "_PART", 512)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def there(loader: Loader) -> Loader:
    return Loader(loader.folder, device=DEVICE)


@pytest.fixture(scope="module")
def on_device(there: Loader) -> CaseRun:
    with pretending():
        return run_case(SMALL, there, dtype="float32")


def _again(there: Loader, run: CaseRun, stage: str) -> Result:
    """Judge the port as it is patched now."""
    (found,) = [each for each in run.stages if each.name == stage]
    with pretending():
        subject = subject_of(found, SMALL, there, dtype="float32", folder=run.folder)
        return Result.of([judge_stage(found, subject)])


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with pretending():
        x = torch.ones(3, device="cuda")
        assert (x + torch.ones(3).to("cuda:0")).tolist() == [2, 2, 2]
        assert (x * torch.tensor(2.0)).cpu().sum() == 6  # a number may come from the CPU
        assert torch.ones(2, device="cpu").device.type == "cpu"
        for wrong in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(3)]),
            lambda: x[torch.arange(2)],
            lambda: torch.ones(3).add_(x),
        ):
            with pytest.raises(Mixed, match="on the cpu"):
                wrong()
        with pytest.raises(TypeError, match="convert"):
            x.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_stage_is_judged_on_the_device(there: Loader, dtype: str) -> None:
    with pretending():
        run = run_case(EVERY_STAGE, there, dtype=dtype)
    assert run.result.judgement.verdict is Verdict.PARITY, run.result.judgement.reason
    assert [stage.name for stage in run.stages] == list(EVERY_STAGE.stages)


def test_the_model_is_judged_on_the_device_and_its_floors_are_measured_there(on_device: CaseRun, there: Loader) -> None:
    assert on_device.result.judgement.verdict is Verdict.PARITY, on_device.result.judgement.reason
    assert "eager, sums in parts, inputs moved by one ulp" in on_device.floor_runs
    assert "sdpa, unfused, inputs moved by one ulp" in on_device.floor_runs
    for model in (there.port(on_device.folder, "float32"), there.reference(on_device.folder, "float32").model):
        assert {type(parameter.data) for parameter in model.parameters()} == {PretendTensor}
    assert kernels_of(there.port(on_device.folder, "float32")) is PLAIN  # the compiled ones are for the CPU


def test_the_device_and_the_cpu_draw_the_same_tokens(on_device: CaseRun) -> None:
    assert on_device.inputs is not None
    inputs = Inputs(**on_device.inputs.tensors)
    config = GenerationConfig(eos_token_ids=(), do_sample=True, top_k=30, repetition_penalty=1.2)
    draw = partial(generate_all, inputs=inputs, config=config, max_new_tokens=3, seed=3)
    here = draw(load_model(on_device.folder, kernels="plain"))
    generation = import_module("port.generate")
    with pretending():
        model = load_model(on_device.folder, device="cuda:0")
        assert draw(model) == here
        with replaced(generation, "choose", _on_cpu(generation.choose)), pytest.raises(Mixed, match="on the cpu"):
            draw(model)
    assert here[0] != here[1]


@pytest.mark.slow
def test_the_yardstick_is_computed_on_the_cpu_where_the_device_has_no_float64(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = partial(pretending, without=frozenset({torch.float64}))
    with pytest.raises(TypeError, match=r"no torch\.float64"), without():
        run_case(TEXT, Loader(loader.folder, device=DEVICE), dtype="float32")

    monkeypatch.setattr(reference.model, "has_float64", lambda device: device.type == "cpu")
    with without():
        run = run_case(TEXT, Loader(loader.folder, device=DEVICE), dtype="float32")
    assert run.result.judgement.verdict is Verdict.PARITY, run.result.judgement.reason


@pytest.mark.slow
def test_a_report_is_timed_on_the_device_and_names_it(
    on_device: CaseRun, there: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 4096)
    assert on_device.inputs is not None
    assert on_device.model is not None
    assert on_device.subject is not None
    with pretending():
        performance = measure(
            on_device.subject,
            on_device.model.reference,
            on_device.inputs.tensors,
            on_device.model.tokens,
            runs=1,
            progress=lambda: None,
            device=DEVICE,
        )
    assert performance["rows"][0]["subject"]["peak_bytes"] == 4096
    assert "memory on cuda:0" in performance["note"]
    assert len(waits) >= 2 * 3 * 2  # after each run of vision, prefill and decode

    named = {"name": "cuda:0", "model": "Pretended GPU", "kernels": "torch's", "yardstick": "float64 on cuda:0"}
    made = environment(command=["parity", "run"], seed=0, threads=1, device=named)
    with pretending():
        document = write_run(on_device, tmp_path, environment=made, performance=performance)
    assert document["environment"]["device"] == named
    for page in ("report.html", "report.md"):
        assert "Pretended GPU" in (tmp_path / page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_work_of_bench_runs_on_the_device(on_device: CaseRun, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    sizes = Sizes(1, 4, 6, 6, 2, (4,), (6,), (6,), (1,), 1)
    with pretending():
        sides = loaded_sides(on_device.folder, "float32", "fast", DEVICE)
        made = [*works(sides, sizes), *(work for _, _, work in curve_works(sides, sizes))]
        for work in made:
            for prepare in (work.port, work.reference):
                finishing(prepare(), sides.device)()
        limits = measure_limits(torch.bfloat16, side=8, read=2**16, device=DEVICE)
    assert len(waits) >= 2 * len(made)
    assert limits.read_gbytes > 0


@pytest.mark.slow
def test_chat_answers_on_the_device(on_device: CaseRun, there: Loader) -> None:
    config = GenerationConfig(eos_token_ids=(), max_new_tokens=2)
    answer = ChatAnswer()
    with pretending():
        talk = Chat(there.port(on_device.folder, "float32"), Processor.load(on_device.folder), config)
        for _ in talk.ask([{"type": "text", "text": "Hi."}], answer):
            pass
    assert len(answer.tokens) == 2


# -- planted: one place that forgets the device --------------------------------------------------------------------


def _on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with what it returns on the CPU."""

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        return found.cpu() if isinstance(found, Tensor) else tuple(each.cpu() for each in found)

    return forgetful


# Where the port makes tables. Each is planted to leave them on the CPU.
TABLES: Sequence[tuple[Any, str]] = (
    (port.text, "mrope_cos_sin"),
    (port.model, "causal_mask"),
    (port.model, "mrope_positions"),
    (grid, "patch_coordinates"),
    (grid, "interpolation"),
    (KVCache, "next_positions"),
)


@pytest.mark.parametrize(("owner", "name"), TABLES, ids=[name for _, name in TABLES])
def test_a_table_that_the_port_leaves_on_the_cpu_is_found(
    on_device: CaseRun, there: Loader, owner: Any, name: str
) -> None:
    with replaced(owner, name, _on_cpu(getattr(owner, name))):
        result = _again(there, on_device, "model")
    assert result.judgement.verdict is Verdict.DIVERGED
    assert "on the cpu" in result.judgement.reason


def test_a_replacement_of_the_isolated_comparison_that_is_left_on_the_cpu_is_found(
    on_device: CaseRun, there: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Recorder._replacement

    def forgetful(self: Recorder, key: SeamKey, *args: Any) -> Tensor | None:
        found = original(self, key, *args)
        return None if found is None else found.cpu()

    monkeypatch.setattr(Recorder, "_replacement", forgetful)
    result = _again(there, on_device, "model")
    assert "on the cpu" in str(result.error)


def test_moved_inputs_that_are_left_on_the_cpu_are_found(
    on_device: CaseRun, there: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudge, "moved", _on_cpu(nudge.moved))
    assert on_device.inputs is not None
    moved = floor_variants(there.reference(on_device.folder, "float32"))[2]
    with pretending(), pytest.raises(Mixed, match="on the cpu"):
        moved.trace(on_device.inputs.tensors, None, steps=0, sink=lambda _name, _tensor: None)


def test_kernels_of_the_cpu_step_aside_with_a_message(on_device: CaseRun, there: Loader) -> None:
    assert on_device.inputs is not None
    engine = PortEngine(there.port(on_device.folder, "float32"), kernels=NumpyKernels())
    with pretending(), pytest.raises(ParityError, match=r"'numpy' are for the CPU, and .* is called on cuda:0"):
        engine.trace(on_device.inputs.tensors, None, steps=0, sink=lambda _name, _tensor: None)
