"""An engine in C takes part with nothing but a golden bundle: right, it passes; with a fault, it does not.

The engine shares no code with the project, and its sums are plain loops. It is compiled with ``cc`` if there is one,
otherwise with the C compiler of the ``ziglang`` package.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.parity.cli.samples import Answer, call

SOURCE = Path(__file__).with_name("engine.c")
# A batch with pictures of unequal size, a video and text, padded; and trained weights in bfloat16.
BATCH, TRAINED = "batch-3", "trained-picture"


@dataclass(frozen=True)
class Lab:
    """A bundle with its checkpoints, and the engine."""

    bundle: Path
    work: Path

    def engine(self, source: str, name: str = "engine") -> Path:
        """Compile a source. Returns the program."""
        code, program = self.work / f"{name}.c", self.work / name
        code.write_text(source, encoding="utf-8")
        compiler = ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
        subprocess.run(
            [*compiler, "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-o", str(program), str(code), "-lm"],
            check=True,
        )
        return program

    def run(self, program: Path, case: str) -> Path:
        """Run the engine on a case of the bundle. Returns its trace, in a folder of the program's own."""
        document = json.loads((self.bundle / "bundle.json").read_text(encoding="utf-8"))
        record = next(record for record in document["cases"] if record["name"] == case)
        tokens = [str(token) for row in record["model"]["dtypes"]["float32"]["decode_tokens"] for token in row]
        trace = self.work / f"traces-{program.name}" / f"{case}.safetensors"
        trace.parent.mkdir(exist_ok=True)
        places = self.bundle / record["checkpoint"]["folder"], self.bundle / record["model"]["inputs"]
        subprocess.run([str(program), *map(str, places), str(trace), *tokens], check=True)
        return trace

    def judge(self, trace: Path, *options: str) -> Answer:
        return call("judge", self.bundle, trace, "--stage", "model", *options)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    work = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN3VL_PARITY_CACHE", str(work / "cache"))
        cases = ("--case", BATCH, "--case", TRAINED)
        call("bundle", "make", *cases, "--out", work / "bundle", "--with-checkpoint").succeeds()
    return Lab(work / "bundle", work)


@pytest.fixture(scope="module")
def right(lab: Lab) -> dict[str, Path]:
    """The traces of the engine as it is, by case."""
    program = lab.engine(SOURCE.read_text(encoding="utf-8"))
    return {case: lab.run(program, case) for case in (BATCH, TRAINED)}


def _document(answer: Answer) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(answer.stdout)["cases"][0]
    return case


@pytest.mark.parametrize("case", [BATCH, TRAINED])
def test_the_engine_is_right(case: str, lab: Lab, right: dict[str, Path]) -> None:
    answer = lab.judge(right[case], "--case", case, "--json")
    answer.succeeds()
    judged = _document(answer)
    assert judged["verdict"]["value"] == "PARITY"
    assert judged["verdict"]["not_compared"] == 0
    assert judged["verdict"]["rows_compared"] > 3000
    # Far within its gates, and no copy of a run of torch.
    assert 0.1 < max(finding["ratio"] or 0 for finding in judged["findings"]) < 0.6


FAULTS: dict[str, tuple[str, str, str]] = {
    "tanh in the merger": (
        "0.5f * y[i] * (1 + erff(y[i] * 0.70710678f))",
        "0.5f * y[i] * (1 + tanhf(0.7978845608f * (y[i] + 0.044715f * y[i] * y[i] * y[i])))",
        "vision.deepstack.0",
    ),
    "erf in the blocks": (
        "0.5f * y[i] * (1 + tanhf(0.7978845608f * (y[i] + 0.044715f * y[i] * y[i] * y[i])))",
        "0.5f * y[i] * (1 + erff(y[i] * 0.70710678f))",
        "vision.blocks.0.mlp.out",
    ),
    "deepstack in reverse": (
        "add(x, deepstack[layer], ",
        "add(x, deepstack[model.taps - 1 - layer], ",
        "text.layers.0.deepstack",
    ),
    "theta of the tower": ("powf(10000.0f,", "powf(9999.0f,", "vision.rope_cos"),
    "sections in blocks": (
        "int axis = i % 3;",
        "int axis = i < model.section[0] ? 0 : i < model.section[0] + model.section[1] ? 1 : 2; i += 0;",
        "text.rope_cos",
    ),
    "heads modulo groups": ("head / (h / k)", "head % k", "text.layers.0.attn.context"),
    "scale of the text": (
        "cache[layer][0] + start + j * d, (int)d) / sqrtf((float)d)",
        "cache[layer][0] + start + j * d, (int)d) / sqrtf((float)d + 1)",
        "text.layers.0.attn.context",
    ),
    "epsilon of the tower": ("variance / width + 1e-6f", "variance / width + 1e-5f", "vision.blocks.0.norm1"),
    "patches in raster order": (
        "int row = outside / (w / m) * m + inside / m, column = outside % (w / m) * m + inside % m;",
        "int row = block / w, column = block % w; inside += outside * 0;",
        "vision.pos_embed",
    ),
    "corners not aligned": ("(float)(side - 1) / (h - 1)", "(float)side / h", "vision.pos_embed"),
    "one segment too long": (
        "int keys = bounds[s + 1] - bounds[s];",
        "int keys = (int)(n - bounds[s]);",
        "vision.blocks.0.attn.context",
    ),
    "decode one position late": ("= next[b] + step;", "= next[b] + step + 1;", "text.position_ids"),
    "padding is seen": (
        "(j <= query && visible[b * capacity + j])",
        "(j <= query && visible[b * capacity + j] < 2)",
        "text.causal_mask",
    ),
    "value head of another group": (
        "scores[j] * cache[layer][1][start + j * d + i]",
        "scores[j] * cache[layer][1][(r / s * k) * capacity * d + j * d + i]",
        "text.layers.0.attn.context",
    ),
    "last key forgotten": (
        "softmax(scores, (int)t);",
        "softmax(scores, (int)t - (t > 9));",
        "text.layers.0.attn.context",
    ),
}


# Each third one by default: each takes a compiler and a run.
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[pytest.mark.slow] if at % 3 else []) for at, name in enumerate(FAULTS)]
)
def test_a_fault_in_the_engine_is_found_where_it_is(fault: str, lab: Lab) -> None:
    old, new, seam = FAULTS[fault]
    source = SOURCE.read_text(encoding="utf-8")
    assert source.count(old) == 1
    trace = lab.run(lab.engine(source.replace(old, new), "faulty"), BATCH)
    answer = lab.judge(trace, "--case", BATCH)
    assert answer.code == 1, answer.stderr
    assert f"first divergence at {seam} (" in answer.stdout


def test_the_trace_of_another_prompt_or_checkpoint_is_not_judged(lab: Lab, right: dict[str, Path]) -> None:
    answer = lab.judge(right[BATCH], "--case", TRAINED)
    assert answer.code == 2
    assert "another prompt or checkpoint?" in answer.stdout


def test_the_file_names_its_case(lab: Lab, right: dict[str, Path]) -> None:
    """Without --case, the name of the file is that of the case, or its metadata says it."""
    lab.judge(right[TRAINED]).succeeds()
    named = lab.work / "other.safetensors"
    save_file(load_file(right[TRAINED]), named, metadata={"case": TRAINED, "producer": "my engine"})
    lab.judge(named).succeeds()


def test_a_seam_that_is_left_out_is_missed(lab: Lab, right: dict[str, Path]) -> None:
    held = load_file(right[TRAINED])
    del held["text.norm#2"]
    short = lab.work / "short.safetensors"
    save_file(held, short)
    answer = lab.judge(short, "--case", TRAINED)
    assert answer.code == 3
    assert "text.norm[2]" in answer.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits": np.zeros(1, np.float32)}, "'logits'; in a trace without a manifest, tensors are named seam#call"),
        ({"logits#01": np.zeros(1, np.float32)}, "two tensors of one seam and call"),
    ],
)
def test_names_of_tensors_are_checked(
    change: dict[str, np.ndarray], words: str, lab: Lab, right: dict[str, Path]
) -> None:
    wrong = lab.work / "wrong.safetensors"
    save_file({**load_file(right[TRAINED]), **change}, wrong)
    lab.judge(wrong, "--case", TRAINED).refuses(words)
