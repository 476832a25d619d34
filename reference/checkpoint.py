"""Makes seeded Qwen3-VL checkpoint folders, complete enough for transformers, mistral.rs and other engines.

A folder is only made if everything could be written, and the same arguments give the same bytes. Weights are drawn
and written a few million values at a time, so a released shape needs disk space but little memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from reference.shapes import Shape, config_dict, cut_depth, get_shape
from reference.shards import DTYPES, INDEX_NAME, Entry, index_bytes, plan_shards, write_shard
from reference.template import chat_template, template_files
from reference.tokenizer import TokenizerParts, json_bytes, tokenizer_files, tokenizer_parts
from reference.weights import HEAD_NAME, RECIPE, layout_name, tensor_chunks, weight_shapes

RECEIPT = "seeded.json"
"""Name of the file that lists what a folder holds: the arguments, and the size and sha256 of every other file."""

DEFAULT_SHARD_BYTES = 5_000_000_000


def make_checkpoint(
    out_dir: Path,
    shape: str = "tiny",
    *,
    seed: int = 0,
    tied: bool | None = None,
    dtype: str = "float32",
    max_shard_bytes: int | None = None,
    layout: Literal["published", "legacy"] = "published",
    lm_head_entry: bool | None = None,
    rope_dialect: Literal["rope_scaling", "rope_parameters"] = "rope_scaling",
    depth: int | None = None,
) -> Path:
    """Write a complete seeded checkpoint folder, or reuse it if it is there already.

    Args:
        out_dir: the folder to make. Its parents are made too.
        shape: a name from `reference.shapes.SHAPES`.
        seed: seed of the weights; nothing else depends on it.
        tied: whether the head shares the embedding table; None: the shape's own setting.
        dtype: `float32`, `bfloat16` or `float16`; the same float32 values are rounded to nearest.
        max_shard_bytes: largest number of tensor bytes in a file (a larger tensor gets its own file); None: 5 GB.
        layout: tensor names, `published` (`model.visual.*`, `model.language_model.*`) or `legacy`
            (`visual.*`, `model.*`), for ports that accept both. Transformers itself does not load the
            tensors of a legacy Qwen3-VL. They keep random values, and only its loading info mentions it.
        lm_head_entry: whether a tied checkpoint also stores `lm_head.weight`; None: it doesn't.
        rope_dialect: how config.json spells the rotary settings, see `reference.shapes.config_dict`.
        depth: largest number of decoder layers and of vision blocks; None: all.

    Returns:
        `out_dir`.

    Raises:
        ValueError: an argument is not valid, or `out_dir` holds something other than this checkpoint.
    """
    out_dir = Path(out_dir)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    full = get_shape(shape)
    plan = _Plan(
        full if depth is None else cut_depth(full, depth),
        seed=seed,
        tied=full.tied if tied is None else tied,
        dtype=dtype,
        max_shard_bytes=DEFAULT_SHARD_BYTES if max_shard_bytes is None else max_shard_bytes,
        layout=layout,
        lm_head_entry=lm_head_entry,
        rope_dialect=rope_dialect,
        depth=depth,
    )
    if _holds_anything(out_dir):
        _check_reusable(out_dir, plan)
        return out_dir
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        plan.write(work)
        work.chmod(0o755)
        _publish(work, out_dir, plan)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out_dir


class _Plan:
    """What to write, computed from the arguments before anything is written."""

    def __init__(
        self,
        shape: Shape,
        *,
        seed: int,
        tied: bool,
        dtype: str,
        max_shard_bytes: int,
        layout: Literal["published", "legacy"],
        lm_head_entry: bool | None,
        rope_dialect: Literal["rope_scaling", "rope_parameters"],
        depth: int | None,
    ) -> None:
        parts = tokenizer_parts(special_base=shape.special_base)
        if shape.text.vocab < parts.size:
            raise ValueError(
                f"shape {shape.name!r} has a vocabulary of {shape.text.vocab}, the tokenizer needs {parts.size}"
            )
        config = config_dict(shape, token_ids=parts.special_ids, tied=tied, dtype=dtype, rope_dialect=rope_dialect)
        self.seed, self.tied, self.dtype = seed, tied, dtype
        self.shapes = weight_shapes(config, lm_head_entry=lm_head_entry)
        self.stored = {name: layout_name(name, layout=layout) for name in self.shapes}
        width = DTYPES[dtype][1].itemsize
        sizes = {name: math.prod(size) * width for name, size in self.shapes.items()}
        self.shards = plan_shards(sizes, max_bytes=max_shard_bytes)
        self.small_files = small_files(shape, parts, config)
        if len(self.shards) > 1:
            weight_map = {self.stored[name]: file for file, names in self.shards.items() for name in names}
            self.small_files[INDEX_NAME] = index_bytes(weight_map, total_bytes=sum(sizes.values()))
        self.spec = {
            "recipe": RECIPE,
            "shape": shape.name,
            "depth": depth,
            "seed": seed,
            "tied": tied,
            "lm_head_entry": HEAD_NAME in self.shapes,
            "dtype": dtype,
            "max_shard_bytes": max_shard_bytes,
            "layout": layout,
            "rope_dialect": rope_dialect,
        }

    def write(self, folder: Path) -> None:
        """Write all files into an empty folder, the receipt last."""
        files: dict[str, dict[str, Any]] = {}
        for name, content in self.small_files.items():
            (folder / name).write_bytes(content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for file, names in self.shards.items():
            files[file] = write_shard(folder / file, map(self._entry, names), dtype=self.dtype)
        receipt = {
            "spec": self.spec,
            "parameters": sum(math.prod(size) for size in self.shapes.values()),
            "files": dict(sorted(files.items())),
        }
        (folder / RECEIPT).write_bytes(json_bytes(receipt))

    def _entry(self, name: str) -> Entry:
        shape = self.shapes[name]
        blocks = tensor_chunks(name, shape, seed=self.seed, tied=self.tied)
        return Entry(name=self.stored[name], shape=shape, blocks=blocks)


def small_files(shape: Shape, parts: TokenizerParts, config: dict[str, Any]) -> dict[str, bytes]:
    """Return every file except weights, index and receipt."""
    vision, limits = shape.vision, shape.limits
    pixels = {
        "patch_size": vision.patch,
        "temporal_patch_size": vision.temporal_patch,
        "merge_size": vision.merge,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }
    image = {
        "size": {"longest_edge": limits.image_max, "shortest_edge": limits.image_min},
        **pixels,
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    video = {
        "size": {"longest_edge": limits.video_max, "shortest_edge": limits.video_min},
        **pixels,
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    # Published checkpoints sample by default. Two runs can only be compared if they are greedy.
    generation = {
        "bos_token_id": parts.special_ids["<|endoftext|>"],
        "do_sample": False,
        "eos_token_id": [parts.special_ids["<|im_end|>"], parts.special_ids["<|endoftext|>"]],
        "pad_token_id": parts.special_ids["<|endoftext|>"],
        "transformers_version": config["transformers_version"],
    }
    return {
        "config.json": json_bytes(config),
        "generation_config.json": json_bytes(generation),
        "preprocessor_config.json": json_bytes(image),
        "video_preprocessor_config.json": json_bytes(video),
        **tokenizer_files(parts, chat_template=chat_template(), max_length=shape.text.max_positions),
        **template_files(),
    }


def _holds_anything(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder to make")
    return folder.is_dir() and any(folder.iterdir())


def _publish(work: Path, out_dir: Path, plan: _Plan) -> None:
    """Rename `work` to `out_dir`. An empty folder is replaced; one with files must hold the same checkpoint."""
    try:
        os.replace(work, out_dir)
    except OSError:
        if not _holds_anything(out_dir):
            raise
        _check_reusable(out_dir, plan)  # another process finished first


def _check_reusable(folder: Path, plan: _Plan) -> None:
    """Raise ValueError unless the folder was made from the same arguments and all its files are intact."""
    way_out = "choose another folder or remove this one"
    receipt_path = folder / RECEIPT
    if not receipt_path.is_file():
        raise ValueError(f"{folder} is not empty and has no {RECEIPT}, so it isn't overwritten; {way_out}")
    try:
        receipt = json.loads(receipt_path.read_bytes())
        found, recorded = receipt["spec"], {name: entry["sha256"] for name, entry in receipt["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{receipt_path} is not a receipt of a seeded checkpoint; {way_out}") from error
    differing = [
        f"{key} is {found.get(key)!r}, asked for {value!r}"
        for key, value in plan.spec.items()
        if found.get(key) != value
    ]
    if differing:
        raise ValueError(f"{folder} holds another checkpoint ({'; '.join(differing)}); {way_out}")
    # Small files are compared with what would be written now, weights with what the receipt lists.
    wanted = {name: hashlib.sha256(content).hexdigest() for name, content in plan.small_files.items()}
    wanted |= {file: recorded.get(file, "") for file in plan.shards}
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{folder} lacks {name}; {way_out}")
        actual = _file_sha256(path)
        if actual != digest:
            raise ValueError(f"{path} has sha256 {actual}, expected {digest or 'no such file'}; {way_out}")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
