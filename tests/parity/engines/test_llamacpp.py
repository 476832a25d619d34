"""llama.cpp's files and its adapter. The engine itself runs where its libraries can be loaded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from parity.answers.tokens import compare_tokens
from parity.cases.case import ODD, TINY, SeededCheckpoint
from parity.core.errors import ParityError
from parity.core.verdict import Verdict
from parity.engines import llamacpp
from parity.engines.gguf_files import write_gguf
from parity.engines.questions import Question
from parity.engines.registry import engine
from parity.runs.loader import Loader
from port.weights import Checkpoint

_OWN = {"model": "qwen3vl", "mmproj": "clip"}


@pytest.fixture(scope="module")
def written(loader: Loader, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, gguf.GGUFReader]]:
    folder = loader.checkpoint(TINY)
    paths = write_gguf(folder, tmp_path_factory.mktemp("gguf"))
    return folder, {path.stem: gguf.GGUFReader(path) for path in paths}


def test_every_weight_is_written_once_and_unchanged(written: tuple[Path, dict[str, gguf.GGUFReader]]) -> None:
    folder, files = written
    held = [np.array(tensor.data).reshape(-1) for reader in files.values() for tensor in reader.tensors]
    with Checkpoint(folder) as checkpoint:
        own = [checkpoint.read(name).float().numpy() for name in checkpoint.keys]
    # The patch weight (C, 3, 2, P, P) is two tensors, one for each frame.
    frames = [part for array in own for part in ((array[:, :, 0], array[:, :, 1]) if array.ndim == 5 else (array,))]
    assert sorted(part.tobytes() for part in held) == sorted(np.ascontiguousarray(one).tobytes() for one in frames)


def test_the_fields_are_those_of_the_config(written: tuple[Path, dict[str, gguf.GGUFReader]]) -> None:
    folder, files = written
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, tower = (
        {name: field.contents() for name, field in files[stem].fields.items()} for stem in ("model", "mmproj")
    )
    assert text["general.architecture"] == "qwen3vl"
    assert tower["general.architecture"] == "clip"
    assert text["qwen3vl.rope.dimension_sections"] == [*config["text_config"]["rope_scaling"]["mrope_section"], 0]
    taps = config["vision_config"]["deepstack_visual_indexes"]
    assert [at for at, is_tap in enumerate(tower["clip.vision.is_deepstack_layers"]) if is_tap] == taps
    assert text["qwen3vl.n_deepstack_layers"] == len(taps)
    assert text["tokenizer.ggml.tokens"][config["image_token_id"]] == "<|image_pad|>"


def test_what_llama_cpp_cannot_hold_is_refused(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="merges 2 x 2 patches"):
        write_gguf(loader.checkpoint(ODD), tmp_path)


def test_the_prompt_has_a_marker_for_each_picture(loader: Loader, tmp_path: Path) -> None:
    folder = loader.checkpoint(TINY)
    asked = llamacpp._asked(folder, Question.about("What?", [tmp_path / "a.png", tmp_path / "b.png"]))
    assert asked["prompt"].count("<__media__>") == 2
    assert "image_pad" not in asked["prompt"]
    assert asked["prompt"].endswith("assistant\n")
    with pytest.raises(ParityError, match="pictures and text only"):
        llamacpp._asked(folder, Question.about("What?", (), [tmp_path / "a.mp4"]))


def test_a_failed_or_late_process_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    request = {"answer": str(tmp_path / "answer.json")}
    with pytest.raises(ParityError, match="failed"):
        llamacpp._run({**request, "model": "no-such-file"})

    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("llama.cpp", 1)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(ParityError, match="no answer"):
        llamacpp._run(request)


@pytest.mark.engine
def test_llama_cpp_gives_the_ports_greedy_tokens(loader: Loader) -> None:
    if why := engine("llamacpp").unavailable():
        pytest.skip(why)
    folder = loader.checkpoint(SeededCheckpoint("tiny"))
    found = compare_tokens(engine("llamacpp"), folder, "How many legs has a spider?", images=[], steps=8, loader=loader)
    assert found.verdict is Verdict.PARITY, (found.port_tokens, found.engine_tokens)
    assert found.largest_difference is not None
    assert found.largest_difference < 2e-3
