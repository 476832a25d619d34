"""Choosing, describing and waiting for a device, on machines that are pretended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from click.testing import CliRunner

from parity.bench.memory import peak_memory
from parity.cli.main import main
from parity.core.binding import WIDEST
from parity.core.errors import ParityError
from parity.core.folder import manifest_schema
from parity.documents.environment import environment
from parity.engines.device import describe_device, finishing, use_device
from parity.engines.dtypes import DTYPES, running_dtype, stored_as
from reports.document import schema

Gpus = Callable[..., None]
MATRIX = torch.backends.cuda.matmul


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """Pretend that there are so many GPUs. TF32 is set back at the end."""
    before = MATRIX.allow_tf32, torch.backends.cudnn.allow_tf32

    def pretend(count: int = 2, capability: tuple[int, int] = (9, 0), *, built: bool = True) -> None:
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Pretended GPU")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    yield pretend
    MATRIX.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_float32_is_float32_and_tf32_a_dtype_of_its_own(gpus: Gpus) -> None:
    gpus()
    model = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 0))

    device = use_device("cuda", "float32")
    assert str(device) == "cuda:0"
    assert not MATRIX.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert running_dtype(model) == "float32"
    assert (describe_device(device) or {})["TF32"] == "products off, cuDNN off"

    use_device("cuda:0", "tf32")
    assert MATRIX.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert running_dtype(model) == "tf32"
    assert DTYPES["tf32"] is torch.float32
    assert stored_as("tf32") == "float32"
    assert (describe_device(device) or {})["TF32"] == "products on, cuDNN on"
    assert running_dtype(SimpleNamespace(dtype=torch.bfloat16, device=device)) == "bfloat16"
    assert running_dtype(SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))) == "float32"
    # A trace that was made with TF32 says so, and its floors are not those of float32.
    assert "tf32" in manifest_schema()["$defs"]["ran_in"]["enum"]
    assert "tf32" not in manifest_schema()["$defs"]["dtype"]["enum"]
    assert WIDEST["tf32"] > WIDEST["float32"]


@pytest.mark.parametrize(
    ("word", "machine", "message"),
    [
        ("cuda", {"count": 0}, "finds no GPU, or no driver.*this machine has cpu: name one of these"),
        ("cuda", {"count": 0, "built": False}, "built without CUDA"),
        ("cuda:5", {"count": 2}, r"there is no GPU 5, only 2 \(0 to 1\); this machine has cpu, cuda:0, cuda:1"),
        ("mps", {"count": 0}, "built without MPS|macOS"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_that_are(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, word: str, machine: dict[str, int], message: str
) -> None:
    gpus(**machine)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ParityError, match=f"--device {word}: .*{message}"):
        use_device(word)


def test_tf32_is_refused_where_it_would_do_nothing(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(capability=(7, 5))
    with pytest.raises(ParityError, match=r"compute capability 7\.5, and TF32 needs 8\.0"):
        use_device("cuda", "tf32")
    gpus()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(ParityError, match="NVIDIA_TF32_OVERRIDE is 0"):
        use_device("cuda", "tf32")
    with pytest.raises(ParityError, match="is for NVIDIA GPUs"):
        use_device("cpu", "tf32")


def test_a_report_names_the_device_and_its_kernels(gpus: Gpus) -> None:
    gpus()
    described = describe_device(torch.device("cuda", 1))
    assert described is not None
    assert described["model"] == "Pretended GPU"
    assert described["capability"] == "9.0"
    assert "for the CPU" in described["kernels"]
    assert described["yardstick"] == "float64 on cuda:1"
    assert (describe_device(torch.device("mps")) or {})["yardstick"] == "float64 on the CPU, mps has none"
    assert describe_device(torch.device("cpu")) is None

    made = environment(command=["parity"], seed=0, threads=1, device=described)
    assert made["device"] == described
    jsonschema.validate(made, schema("run")["properties"]["environment"])
    assert "device" not in environment(command=["parity"], seed=0, threads=1)


def test_times_end_when_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: done.append("waited"))

    def run() -> None:
        done.append("ran")

    finishing(run, torch.device("cuda", 0))()
    assert done == ["ran", "waited"]
    assert finishing(run, torch.device("cpu")) is run


def test_memory_comes_from_the_counters_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: order.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: order.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 350)
    assert peak_memory(lambda: order.append("run"), torch.device("cuda", 0)) == 250
    assert order == ["wait", "reset", "run", "wait"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--device", "tpu"], "'tpu' is no device; write cpu, cuda, cuda:1"),
        (["suite", "--device", "cuda:x"], "'cuda:x' is no device"),
        (["run", "--dtype", "tf32"], "--dtype tf32 is for GPUs, and the device is cpu"),
        (["suite", "--dtype", "tf32", "--device", "mps"], "--dtype tf32 is for GPUs, and the device is mps"),
        (["bench", "--device", "cuda", "--clock", "processor"], "--clock processor counts what the CPU works"),
        (["chat", "--device", "cuda:7", "--prompt", "Hi"], "--device cuda:7: torch finds no GPU"),
        (["run", "--device", "cuda"], "--device cuda: torch finds no GPU"),
        (["suite", "--device", "cuda", "--case", "text"], "--device cuda: torch finds no GPU"),
        (["bench", "--device", "cuda"], "--device cuda: torch finds no GPU"),
    ],
)
def test_a_device_that_cannot_be_used_is_a_usage_error(gpus: Gpus, arguments: list[str], message: str) -> None:
    gpus(0)
    shown = CliRunner().invoke(main, arguments)
    assert message in shown.output
    assert shown.exit_code == 2
