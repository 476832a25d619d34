"""Every tensor is made on the device of what it is used with, or for a reason on the CPU."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import parity.runs
import port

FACTORIES = {
    "arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "ones", "rand", "randint", "randn",
    "tensor", "zeros",
}  # fmt: skip
FILES = "reads files, and all that it makes is on the CPU"
MOVED = "made on the CPU from Python numbers; the caller moves it"
HOST = "decides on the CPU what comes next"
EMPTY = "the layout of a parameter; loading puts it on its device"
# Of each file and function that makes tensors without a device: why that is right.
ALLOWED = {
    "port/finite.py": {"all_finite": "looks at files that were just read"},
    "port/generate.py": {"_steps": HOST},
    "port/grid.py": {"merge_order": MOVED, "segment_boundaries": MOVED},
    "port/kernels/native.py": {
        "Native.rotary": "compiled kernels are for the CPU",
        "Native.attention": "compiled kernels are for the CPU",
        "wrong_kernels": "compiled kernels are for the CPU",
        "random": "compiled kernels are for the CPU",
        "_finds_infinity": "compiled kernels are for the CPU",
    },
    "port/layers.py": {"table": EMPTY, "RMSNorm.__init__": EMPTY, "Conv3dNoBias.__init__": EMPTY},
    "port/mrope.py": {
        "mrope_positions": MOVED, "frame_positions": MOVED, "inverse_frequencies": MOVED, "frequency_axes": MOVED,
    },
    "port/patches.py": {"cut_patches": FILES},
    "port/pixels.py": {"process_picture": FILES, "normalise": FILES, "_tensor": FILES},
    "port/processor.py": {"Processor._video": FILES, "_Pass.joined": FILES, "_tensor": FILES},
    "port/tokenizer.py": {"Tokenizer.pad": FILES},
    "port/vision.py": {"PatchEmbed.__init__": EMPTY},
    "parity/runs/stages/generation_stage.py": {"choose": HOST, "_send": HOST},
    "parity/runs/recorder.py": {"Recorder._replacement": MOVED},
    "parity/runs/stages/weights_stage.py": {"_random_patches": MOVED},
}  # fmt: skip
ROOT = Path(port.__file__).parents[1]


def _made_without_a_device(text: str) -> Iterator[tuple[str, int]]:
    """Yield the function and line of each ``torch.zeros(...)`` and the like that names no device."""

    def walk(node: ast.AST, where: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            name = where
            if isinstance(child, ast.ClassDef):
                name = child.name
            elif isinstance(child, ast.FunctionDef):
                name = f"{where}.{child.name}" if isinstance(node, ast.ClassDef) else child.name
            elif isinstance(child, ast.Call) and _makes(child.func) and not _named(child):
                yield where, child.lineno
            yield from walk(child, name)

    yield from walk(ast.parse(text), "")


def _named(call: ast.Call) -> bool:
    return any(keyword.arg == "device" for keyword in call.keywords)


def _makes(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr in FACTORIES
        and isinstance(called.value, ast.Name)
        and called.value.id == "torch"
    )


def _sources() -> list[Path]:
    return sorted([*Path(port.__file__).parent.rglob("*.py"), *Path(parity.runs.__file__).parent.glob("*.py")])


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in _sources()])
def test_tensors_are_made_on_a_named_device_or_for_a_reason_on_the_cpu(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    found = dict(_made_without_a_device(text))
    allowed = ALLOWED.get(path, {})
    unknown = {name: line for name, line in found.items() if name not in allowed}
    assert not unknown, f"{path}: give a device, or a reason in ALLOWED: {unknown}"
    assert not allowed.keys() - found.keys(), f"{path}: no longer needed in ALLOWED: {allowed.keys() - found.keys()}"


def test_a_table_without_a_device_is_found() -> None:
    text = "def causal(x):\n    return torch.arange(3) < torch.arange(4, device=x.device)\n"
    assert list(_made_without_a_device(text)) == [("causal", 2)]
