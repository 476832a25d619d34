"""Every field that the port reads from a checkpoint has two values among the cases of the suite.

A number that a port writes down instead of reading it shows only if some case has another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from parity.cases.case import SeededCheckpoint
from parity.cases.registry import every_case
from parity.cases.standard import standard_suite
from parity.milestones.plan import standard
from parity.mutants.cases import ONLY
from parity.mutants.registry import ALL
from parity.runs.loader import Loader
from parity.runs.rewritten import REWRITES, rewritten
from port import Qwen3VLConfig
from port.pixel_config import PictureConfig, VideoConfig

# What no checkpoint may have another value of.
FIXED = {"Qwen3VLConfig.vision.in_channels": "pictures are RGB: the processor gives three channels"}


def values(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every field of a config and of the configs in it, with its value."""
    for field in fields(config):
        value, place = getattr(config, field.name), f"{name}.{field.name}"
        if is_dataclass(value):
            yield from values(value, place)
        else:
            yield place, value


def configs(loader: Loader, stages: Sequence[str], *kinds: Any) -> Iterator[Any]:
    """The configs of all checkpoints of the suite that one of the stages reads."""
    cases = [case for case in standard_suite() if set(case.stages) & set(stages)]
    for checkpoint in dict.fromkeys(case.checkpoint for case in cases):
        folder = loader.checkpoint(checkpoint)
        yield from (kind.from_folder(folder) for kind in kinds)


def test_every_field_has_two_values_among_the_cases(loader: Loader) -> None:
    found: dict[str, set[Any]] = defaultdict(set)
    for config in (
        *configs(loader, ("model",), Qwen3VLConfig),
        *configs(loader, ("processor",), PictureConfig, VideoConfig),
    ):
        for name, value in values(config, type(config).__name__):
            found[name].add(value)
    assert len(found) > 45
    assert {name for name, seen in found.items() if len(seen) == 1} == FIXED.keys()


def test_a_field_with_one_value_would_be_noticed(loader: Loader) -> None:
    config = Qwen3VLConfig.from_folder(loader.checkpoint(SeededCheckpoint()))
    found = dict(values(config, "Qwen3VLConfig"))
    assert found["Qwen3VLConfig.text.rms_norm_eps"] == 1e-6
    assert len(found) > 25


def test_the_checkpoints_are_stored_in_every_dtype_and_way() -> None:
    used = [case.checkpoint for case in every_case().values()]
    seeded = [checkpoint for checkpoint in used if isinstance(checkpoint, SeededCheckpoint)]
    assert {checkpoint.dtype for checkpoint in used} == {"float32", "bfloat16", "float16"}
    assert {name for checkpoint in seeded for name in checkpoint.rewrites} == REWRITES.keys()
    assert {checkpoint.layout for checkpoint in seeded} == {"published", "legacy"}
    assert {checkpoint.rope_dialect for checkpoint in seeded} == {"rope_scaling", "rope_parameters"}


def test_a_rewrite_and_a_section_must_exist(loader: Loader, tmp_path: Any) -> None:
    source = loader.checkpoint(SeededCheckpoint())
    with pytest.raises(Exception, match="there is no rewrite 'x'; choose from"):
        rewritten(source, tmp_path / "a", edits=(), rewrites=("x",))
    with pytest.raises(Exception, match="has no section 'sizes'"):
        rewritten(source, tmp_path / "b", edits=(("preprocessor_config.json", "sizes.a", 1),), rewrites=())
    assert not list(tmp_path.iterdir())


def test_the_cases_of_components_are_required_by_the_last_milestone() -> None:
    """``parity mutants`` and the sign-off plant the same mistakes on the same cases."""
    (check,) = [item for item in standard().phases[4].items if item.name == "kill-matrix"]
    assert ONLY.keys() <= set(check.detail["cases"])
    assert {component for own in ONLY.values() for component in own} <= set(check.detail["components"])
    assert {mutant.component for mutant in ALL} == set(check.detail["components"])
