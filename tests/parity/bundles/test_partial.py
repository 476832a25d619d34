"""Partial evidence: an engine that gives less, or lays it out in its own way, is told so in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity.core.folder import FolderTrace
from parity.core.trace import SeamKey
from tests.parity.bundles.samples import PICTURE, TEXT, Golden
from tests.parity.cli.samples import Answer

Judge = Callable[..., Answer]
Values = dict[str, np.ndarray]
Bare = Callable[..., Path]


@pytest.fixture
def values(golden: Golden) -> Values:
    """The port's trace of a picture as the tensors of a bare file."""
    return _values(golden, PICTURE)


def _values(golden: Golden, case: str) -> Values:
    trace = FolderTrace(golden.subject(case))
    return {f"{key.name}#{key.call}": np.ascontiguousarray(trace.read(key)) for key in trace.entries()}


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    def write(values: Values, case: str = PICTURE, **metadata: str) -> Path:
        path = tmp_path / f"{case}.safetensors"
        save_file(values, path, metadata={"case": case, "producer": "my engine", **metadata})
        return path

    return write


def _only(values: Values, *parts: str) -> Values:
    return {name: array for name, array in values.items() if any(part in name for part in parts)}


BOUND = ("input_ids", "attention_mask", "image_grid_thw", "text.embed_tokens")
COARSE = (*BOUND, "text.position_ids", "rope_delta", "vision.patch_embed", "vision.embed", "vision.deepstack",
          "vision.merger", "text.inputs_embeds", ".deepstack", "text.norm", "logits")  # fmt: skip


def _coarse(values: Values) -> Values:
    ends = {name: array for name, array in values.items() if name.partition("#")[0].endswith(".out")}
    whole = {name: array for name, array in ends.items() if ".attn." not in name and ".mlp." not in name}
    return {**_only(values, *COARSE), **whole}


def test_a_few_sound_seams_are_incomplete_in_one_line(judge: Judge, values: Values, bare: Bare) -> None:
    answer = judge(bare(_coarse(values)))
    answer.succeeds(code=3)
    assert "seams given, all within their gates, worst 0." in answer.stdout
    assert len(answer.stdout.splitlines()) < 90
    assert "did not give" not in answer.stdout


@pytest.mark.parametrize(("word", "keep"), [("coarse", _coarse), ("logits", lambda v: _only(v, *BOUND, "logits"))])
def test_a_promise_that_is_kept_is_parity(word: str, keep: Any, judge: Judge, values: Values, bare: Bare) -> None:
    answer = judge(bare(keep(values)), "--expect", word)
    answer.succeeds()
    assert f"other seams were not promised (--expect {word})" in answer.stdout


def test_a_promise_that_is_not_kept_is_incomplete(judge: Judge, values: Values, bare: Bare, tmp_path: Path) -> None:
    given = _only(values, *BOUND, "logits")
    del given["logits#2"]
    answer = judge(bare(given), "--expect", "logits")
    answer.succeeds(code=3)
    assert "logits[2]" in answer.stdout
    own = tmp_path / "mine.txt"
    own.write_text("# of my engine\nlogits\ntext.layers.{}.out\n", encoding="utf-8")
    answer = judge(bare(_only(values, *BOUND, "logits")), "--expect", own)
    answer.succeeds(code=3)
    own.write_text("logits\nvision.blocks.{}.nope\n", encoding="utf-8")
    judge(bare(values), "--expect", own).refuses("'vision.blocks.{}.nope', which is no seam of the case")
    judge(bare(values), "--expect", "much").refuses("give full, coarse, logits, or a file")


def test_a_divergence_has_a_bracket(judge: Judge, values: Values, bare: Bare) -> None:
    given = _coarse(values)
    for name in list(given):
        if name.startswith(("vision.blocks.0.out", "vision.blocks.1.out")):
            given[name] = given[name] * np.float32(1.01)
    answer = judge(bare(given), "--expect", "coarse")
    answer.succeeds(code=1)
    assert "good at vision.embed[0], wrong at vision.blocks.0.out[0]; 11 seams between were not given" in answer.stdout
    assert "to see whether a known mistake explains it: parity diagnose" in answer.stdout


def test_logits_of_the_last_token_are_enough_if_logits_are_promised(judge: Judge, values: Values, bare: Bare) -> None:
    given = _only(values, *BOUND, "logits")
    given["logits#0"] = np.ascontiguousarray(given["logits#0"][:, -1:])
    judge(bare(given), "--expect", "logits").succeeds()
    answer = judge(bare(given))
    answer.succeeds(code=3)
    given["logits#0"] = given["logits#0"] * np.float32(1.001)
    judge(bare(given), "--expect", "logits").succeeds(code=1)


def test_logits_of_the_last_real_token_of_padded_rows(judge: Judge, golden: Golden, bare: Bare) -> None:
    given = _only(_values(golden, TEXT), *BOUND, "logits")
    given["logits#0"] = np.ascontiguousarray(given["logits#0"][:, -1])  # (B, V)
    judge(bare(given, TEXT), "--expect", "logits").succeeds()


def test_a_causal_engine_needs_no_mask(judge: Judge, values: Values, bare: Bare) -> None:
    given = {name: array for name, array in values.items() if "causal_mask" not in name}
    judge(bare(given)).succeeds(code=3)
    judge(bare(given, **{"text.causal_mask": "causal"})).succeeds()


def test_an_unknown_name_is_a_usage_error_with_a_suggestion(judge: Judge, values: Values, bare: Bare) -> None:
    values["vision.mergr#0"] = values.pop("vision.merger#0")
    judge(bare(values)).refuses("'vision.mergr' (do you mean 'vision.merger'?)")


def _swapped(name: str, order: tuple[int, ...]) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        for key in values:
            if key.partition("#")[0].endswith(name):
                values[key] = np.ascontiguousarray(values[key].transpose(order))

    return change


def _each_head(values: Values) -> None:
    for key, array in values.items():
        if ".attn.qkv#" in key:
            heads = values[key.replace("qkv", "q_rope")].shape[1]
            whole = array.reshape(len(array), 3, heads, -1)  # (N, 3, H, D)
            values[key] = np.ascontiguousarray(whole.swapaxes(1, 2).reshape(array.shape))


def _no_batch(values: Values) -> None:
    for key, array in values.items():
        if key.startswith("text.layers."):
            values[key] = array[0]


LAYOUTS: dict[str, tuple[Callable[[Values], None], str]] = {
    "heads after tokens": (_swapped("attn.k_cache", (0, 2, 1, 3)), "text.layers.{}.attn.k_cache matches with its axes"),
    "heads before tokens": (_swapped(".attn.v", (0, 2, 1, 3)), "text.layers.{}.attn.v matches with its axes"),
    "q, k and v in each head": (_each_head, "vision.blocks.{}.attn.qkv matches with q, k and v one after the other"),
    "no batch axis": (_no_batch, "text.layers.{}.out matches without an axis of length 1"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_is_not_called_a_wrong_model(name: str, judge: Judge, values: Values, bare: Bare) -> None:
    change, words = LAYOUTS[name]
    change(values)
    answer = judge(bare(values))
    answer.succeeds(code=2)
    assert "the trace is laid out differently, nothing says that the model is wrong" in answer.stdout
    assert words in answer.stdout


def test_a_model_that_computes_with_swapped_queries_is_wrong(judge: Judge, values: Values, bare: Bare) -> None:
    """The same move, but what is made of it is wrong as well: no matter of layout."""
    _each_head(values)
    for key in values:
        if key.startswith(("vision.blocks.0.attn.out#", "vision.blocks.0.attn.context#")):
            values[key] = values[key] * np.float32(1.1)
    answer = judge(bare(values))
    answer.succeeds(code=1)
    assert "first divergence at vision.blocks.0.attn.qkv" in answer.stdout


def _layout(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_layout_file_maps_names_and_axes(judge: Judge, values: Values, bare: Bare, tmp_path: Path) -> None:
    given: Values = {}
    for key, array in values.items():
        if ".attn.qkv#" in key:
            number, call = key.split(".")[2], key.partition("#")[2]
            for letter, part in zip("qkv", np.split(array, 3, axis=1), strict=True):
                given[f"v.{number}.{letter}#{call}"] = np.ascontiguousarray(part)
        elif ".attn.q_norm#" in key:
            given[key.replace("text.layers.", "blk.")] = np.ascontiguousarray(array[0].swapaxes(0, 1))  # (H, S, D)
        elif "causal_mask" not in key:
            given[key] = array
    rules = [
        {"from": ["v.{}.q", "v.{}.k", "v.{}.v"], "to": "vision.blocks.{}.attn.qkv", "join": -1},
        {
            "from": "blk.{}.attn.q_norm",
            "to": "text.layers.{}.attn.q_norm",
            "steps": [{"transpose": [1, 0, 2]}, {"add_axis": 0}],
        },
    ]
    judge(bare(given)).refuses("names that no seam has")
    judge(bare(given), "--layout", _layout(tmp_path, {"causal_mask": True, "rules": rules})).succeeds()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"rules": [{"from": "a.{}", "to": "b"}]}, "have another number of {}"),
        ({"rules": [{"from": ["a", "b"], "to": "c"}]}, 'needs "join" (an axis)'),
        ({"rules": [{"from": "a", "to": "c", "steps": [{"run": "rm"}]}]}, "run"),
        ({"rules": [{"from": "logits", "to": "logits", "steps": [{"reshape": [7, 7]}]}]}, "cannot be made of"),
        ({"rules": [{"from": "logits", "to": "text.norm"}]}, "has already"),
        ([], "is not of type 'object'"),
    ],
)
def test_a_bad_layout_file_is_refused(
    document: Any, words: str, judge: Judge, values: Values, bare: Bare, tmp_path: Path
) -> None:
    judge(bare(values), "--layout", _layout(tmp_path, document)).refuses(words)


def test_pictures_that_were_given_one_by_one_are_joined() -> None:
    from parity.bundles.layouts.fitting import fitted
    from parity.core.trace import Description
    from parity.core.values import ValuesTrace

    grids = np.array([[1, 2, 2], [1, 2, 4]])
    described = Description("x", "", "float32", "case")
    reference = ValuesTrace(
        described,
        {
            SeamKey("image_grid_thw", 0): grids,
            SeamKey("vision.merger", 0): np.arange(6.0).reshape(3, 2),
            SeamKey("vision.cu_seqlens", 0): np.array([0, 4, 12], np.int32),
        },
    )
    given = ValuesTrace(
        described,
        {
            SeamKey("vision.merger", 0): np.array([[0.0, 1.0]]),
            SeamKey("vision.merger", 1): np.array([[2.0, 3.0], [4.0, 5.0]]),
            SeamKey("vision.cu_seqlens", 0): np.array([0, 4], np.int32),
            SeamKey("vision.cu_seqlens", 1): np.array([0, 8], np.int32),
        },
    )
    joined, _ = fitted(given, reference)
    assert list(joined.entries()) == [SeamKey("vision.merger", 0), SeamKey("vision.cu_seqlens", 0)]
    for key in joined.entries():
        assert (joined.read(key) == reference.read(key)).all()
