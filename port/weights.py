"""Loading models from checkpoint folders: safetensors only, memory-mapped, with no tensor missing or left over.

Parameters have the names of the published checkpoints, with two exceptions: the older key layout
(``visual.*``, ``model.*``) and the patch embedding, whose 5-D tensor is stored as a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from port.config import Qwen3VLConfig
from port.errors import ConfigError, WeightsError
from port.finite import all_finite
from port.json_fields import Fields
from port.kernels import kernels_of, use_kernels
from port.mapped_file import MappedFile
from port.model import Qwen3VL

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
EMBEDDING = "model.language_model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
_VISION = "model.visual."
# Parameter of the port -> name in a published checkpoint, if the two differ.
_RENAMED = {
    "model.visual.patch_embed.proj.matrix": "model.visual.patch_embed.proj.weight",
    "model.visual.patch_embed.bias": "model.visual.patch_embed.proj.bias",
}
_SHOWN = 10


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    kernels: str = "fast",
) -> Qwen3VL:
    """Build the port from a checkpoint folder, in eval mode, with weights cast to ``dtype``.

    ``kernels`` is "fast" (what suits the machine; compiled on first use if there is a compiler) or "plain" (torch's own
    operations), see ``port.kernels``. The fast ones are for the CPU; on another ``device`` all models are "plain".

    Weights that are stored in ``dtype`` are not copied on the CPU: the model uses the mapped files, and refuses to run
    once they were changed (see ``MappedFile``). They are mapped privately: writing into a parameter changes neither
    the file nor another model.

    Raises ConfigError or WeightsError, for example if a shard is missing or truncated, a tensor is missing, left over
    or of the wrong shape, a value is NaN or infinite, or ``lm_head.weight`` contradicts tied embeddings.
    """
    folder = Path(folder)
    config = Qwen3VLConfig.from_folder(folder)
    with torch.device("meta"):
        model = Qwen3VL(config)
    device = torch.device(device)
    with Checkpoint(folder) as checkpoint:
        use_kernels(model, kernels if device.type == "cpu" else "plain")
        _fill(model, checkpoint, dtype=dtype, device=device)
    return model.eval().requires_grad_(False)


def checkpoint_name(parameter: str) -> str:
    """The name that a parameter of the port has in published checkpoints."""
    return _RENAMED.get(parameter, parameter)


def published_name(key: str) -> str:
    """The published name of a key in either layout. Keys of an unknown layout are returned unchanged."""
    if key.startswith("visual."):
        return "model." + key
    if key.startswith("model.") and not key.startswith(("model.visual.", "model.language_model.")):
        return "model.language_model." + key.removeprefix("model.")
    return key


@dataclass
class Mismatch:
    """All differences between a checkpoint's tensors and what the config asks for."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        parts = []
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of the wrong shape", self.wrong_shape),
        ):
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} {title}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def _fill(model: Qwen3VL, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
    parameters = dict(model.named_parameters())
    wanted = {checkpoint_name(name): parameter for name, parameter in parameters.items()}
    mismatch = _compare(model, wanted, checkpoint)
    if mismatch:
        raise WeightsError(
            f"{checkpoint.folder}: the tensors do not fit config.json ({mismatch}); "
            "is this the config of this checkpoint?"
        )
    used: dict[MappedFile, list[Tensor]] = {}
    kernels = kernels_of(model)

    def load(name: str) -> Tensor:
        read = checkpoint.read(checkpoint_name(name))
        if not all_finite(read, kernels):
            raise WeightsError(
                f"{checkpoint.folder}: {checkpoint_name(name)} holds NaN or Inf; the file is damaged, or its "
                "conversion went wrong: download or convert it again"
            )
        # Kernels expect numbers at multiples of their size, but a file may place them anywhere.
        misplaced = read.data_ptr() % read.element_size() != 0
        tensor = read.view(parameters[name].shape).to(dtype=dtype, copy=misplaced)
        if device.type == "cpu" and tensor.data_ptr() == read.data_ptr():
            used.setdefault(checkpoint.file(checkpoint_name(name)), []).append(tensor)
        return tensor

    vision = [name for name in parameters if name.startswith(_VISION)]
    others = [name for name in parameters if not name.startswith(_VISION)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:

        def loaded(names: list[str]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in zip(names, pool.map(load, names), strict=True)}

        state = loaded(vision)
        for file, tensors in used.items():
            file.let_go(tensors)  # a model that is asked about text alone never uses them
        state |= loaded(others)
    if model.config.tie_word_embeddings and LM_HEAD in checkpoint.keys:
        _check_tied(checkpoint)
    model.load_state_dict(state, strict=True, assign=True)
    model.files = tuple(used)
    model.check_files()  # nothing was changed while it was read


def _compare(model: Qwen3VL, wanted: Mapping[str, Tensor], checkpoint: Checkpoint) -> Mismatch:
    optional = {LM_HEAD} if model.config.tie_word_embeddings else set()
    mismatch = Mismatch(
        missing=sorted(wanted.keys() - checkpoint.keys),
        unexpected=sorted(checkpoint.keys - wanted.keys() - optional),
    )
    conv = model.model.visual.patch_embed.proj.weight().shape
    for name in sorted(wanted.keys() & checkpoint.keys):
        shape = conv if name == _RENAMED["model.visual.patch_embed.proj.matrix"] else wanted[name].shape
        found = checkpoint.shape(name)
        if tuple(shape) != found:
            mismatch.wrong_shape.append(f"{name} {found}, config says {tuple(shape)}")
    return mismatch


def _check_tied(checkpoint: Checkpoint) -> None:
    head, embedding = checkpoint.read(LM_HEAD), checkpoint.read(EMBEDDING)
    if head.shape != embedding.shape or not torch.equal(head, embedding):
        raise WeightsError(
            f"{checkpoint.folder}: tie_word_embeddings is true at the top level of config.json, but lm_head.weight "
            f"{tuple(head.shape)} is not embed_tokens.weight {tuple(embedding.shape)}; "
            "set the flag to false or remove lm_head.weight"
        )


class Checkpoint:
    """The tensors of a folder by their published names, read one at a time from memory-mapped files."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._stack = ExitStack()
        self._place: dict[str, tuple[MappedFile, Any, str]] = {}
        try:
            for path, names in self._files():
                self._open(path, names)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def keys(self) -> set[str]:
        return set(self._place)

    def shape(self, name: str) -> tuple[int, ...]:
        _, handle, key = self._place[name]
        return tuple(handle.get_slice(key).get_shape())

    def read(self, name: str) -> Tensor:
        _, handle, key = self._place[name]
        tensor: Tensor = handle.get_tensor(key)
        return tensor

    def file(self, name: str) -> MappedFile:
        return self._place[name][0]

    def _files(self) -> Iterator[tuple[Path, set[str] | None]]:
        """Each file with the keys that it must hold according to the index (None without an index)."""
        index_path, single = self.folder / INDEX_FILE, self.folder / SINGLE_FILE
        if not index_path.exists():
            if not single.exists():
                raise WeightsError(
                    f"{self.folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors checkpoints are loaded"
                )
            yield single, None
            return
        try:
            weight_map = Fields.read(index_path).section("weight_map")
            shards: dict[str, set[str]] = {}
            for key in weight_map.raw:
                shards.setdefault(Path(weight_map.string(key)).as_posix(), set()).add(key)
        except ConfigError as error:
            raise WeightsError(f"{INDEX_FILE} is not a safetensors index, download it again: {error}") from None
        if any(Path(shard).name != shard for shard in shards):
            raise WeightsError(f"{index_path} names files outside its folder, which are not read; download it again")
        missing = sorted(shard for shard in shards if not (self.folder / shard).is_file())
        if missing:
            raise WeightsError(
                f"{self.folder}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:_SHOWN])}; "
                "download them again"
            )
        if single.exists() and SINGLE_FILE not in shards:
            raise WeightsError(
                f"{self.folder} holds two checkpoints, {SINGLE_FILE} and the shards of {INDEX_FILE}; "
                "engines differ in which one they read, remove one of them"
            )
        for shard, keys in sorted(shards.items()):
            yield self.folder / shard, keys

    def _open(self, path: Path, names: set[str] | None) -> None:
        try:
            file = MappedFile(path)
            handle = self._stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path} ({path.stat().st_size} bytes) cannot be read: {error}; it is truncated or damaged, "
                "download it again"
            ) from None
        found = set(handle.keys())
        if names is not None and found != names:
            raise WeightsError(
                f"{path} does not hold what {INDEX_FILE} says: {len(names - found)} tensors missing "
                f"{sorted(names - found)[:_SHOWN]}, {len(found - names)} not listed {sorted(found - names)[:_SHOWN]}"
            )
        for key in found:
            name = published_name(key)
            if name in self._place:
                raise WeightsError(
                    f"{self.folder}: {name} is there twice (again as {key} in {path.name}); remove one of the two"
                )
            self._place[name] = (file, handle, key)
