"""Checkpoints made once, models and processors loaded once: what several cases share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

import port
from parity.core.errors import ParityError
from parity.dtypes import DTYPES
from parity.qwen3vl.cases import Case, Checkpoint, TrainedCheckpoint
from parity.qwen3vl.front import PortFront
from parity.qwen3vl.inputs import CaseInputs, prepare_inputs
from parity.qwen3vl.store import NOT_KEPT, TraceStore
from reference.checkpoint import make_checkpoint
from reference.errors import ReferenceModelError
from reference.hub import checkpoint_folder
from reference.model import ReferenceModel, transformers_major
from reference.processor import ReferenceProcessor
from reference.trained import trained_checkpoint
from reference.weights import RECIPE

_PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)


def cache_folder() -> Path:
    """Where seeded checkpoints are kept between runs: ``QWEN3VL_PARITY_CACHE``, or the user's cache folder."""
    given = os.environ.get("QWEN3VL_PARITY_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("qwen3vl-parity", appauthor=False))


class Workbench:
    """One checkpoint's models at a time: asking for another folder or dtype lets go of the last."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        self._key: tuple[str, str] | None = None
        self._reference: ReferenceModel | None = None
        self._port: port.Qwen3VL | None = None
        self._processor: ReferenceProcessor | None = None

    def checkpoint(self, spec: Checkpoint) -> Path:
        """The folder of a seeded checkpoint, made if it is not there yet, or of the trained one."""
        if isinstance(spec, TrainedCheckpoint):
            return trained_checkpoint()
        base = replace(spec, text_tie_flag=None)
        # Another recipe makes other weights: an older version's checkpoints stay beside the new ones.
        shelf = self.folder / f"checkpoints-{RECIPE}"
        try:
            folder = make_seeded(
                shelf / base.label,
                spec.shape,
                seed=spec.seed,
                tied=spec.tied,
                dtype=spec.dtype,
                max_shard_bytes=spec.max_shard_bytes,
                layout=spec.layout,
                lm_head_entry=spec.lm_head_entry,
                rope_dialect=spec.rope_dialect,
            )
        except ParityError as error:
            raise ParityError(
                f"{error}; seeded checkpoints are kept in {self.folder}, set QWEN3VL_PARITY_CACHE to keep them in "
                "another folder"
            ) from None
        if spec.text_tie_flag is None:
            return folder
        return _with_text_flag(folder, shelf / spec.label, flag=spec.text_tie_flag)

    def for_reference(self, spec: Checkpoint) -> Path:
        """The folder from which the installed transformers reads the same model.

        transformers 4.57 cannot read the rope_parameters dialect, and follows a tie_word_embeddings in text_config.
        It gets a twin without them: what those cases prove is how the port reads the config.
        """
        if transformers_major() < 5 and not isinstance(spec, TrainedCheckpoint):
            spec = replace(spec, rope_dialect="rope_scaling", text_tie_flag=None)
        return self.checkpoint(spec)

    def reference(self, folder: str | Path, dtype: str) -> ReferenceModel:
        self._switch(folder, dtype)
        if self._reference is None:
            with _foreign(f"the reference cannot load {folder}"):
                self._reference = ReferenceModel.load(folder, dtype=DTYPES[dtype])
        return self._reference

    def port(self, folder: Path, dtype: str) -> port.Qwen3VL:
        self._switch(folder, dtype)
        if self._port is None:
            self._port = port.load_model(folder, dtype=DTYPES[dtype])
        return self._port

    def processor(self, folder: str | Path, dtype: str) -> ReferenceProcessor:
        self._switch(folder, dtype)
        if self._processor is None:
            _check_processor_files(Path(folder))
            with _foreign(f"the processor of {folder} cannot be loaded"):
                self._processor = ReferenceProcessor.load(folder)
        return self._processor

    def inputs(self, case: Case, folder: Path, dtype: str, *, store: TraceStore = NOT_KEPT) -> CaseInputs:
        """A case's prompts and media through the reference's processor. Raises as ``prepare_inputs`` does."""
        return prepare_inputs(
            case.name,
            case.rows,
            processor=self.processor(folder, dtype),
            config=json.loads((folder / "config.json").read_text(encoding="utf-8")),
            padding_side=case.padding_side,
            decode_steps=case.decode_steps,
            chunk=case.chunk,
            store=store,
        )

    def port_front(self, folder: Path) -> PortFront:
        """The port's processor, which writes videos into prompts as the installed transformers does."""
        return PortFront(port.Processor.load(folder, video_style="inside" if transformers_major() >= 5 else "in place"))

    def _switch(self, folder: str | Path, dtype: str) -> None:
        key = (str(folder), dtype)
        if key != self._key:
            self._key, self._reference, self._port, self._processor = key, None, None, None


@contextmanager
def _foreign(what: str) -> Iterator[None]:
    """Loading a user's files with foreign code, which raises whatever it likes (tokenizers: a bare Exception)."""
    try:
        yield
    except (ReferenceModelError, ImportError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ParityError(f"{what}: {kind}: {error}; fix the checkpoint or download it again") from error


def _check_processor_files(folder: Path) -> None:
    """What transformers would guess around, or refuse without naming the file."""
    for name in _PROCESSOR_FILES:
        path = folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ParityError(f"{path} is not valid JSON: {error}; download it again") from None
        if not isinstance(found, dict):
            raise ParityError(f"{path} holds a {type(found).__name__}, not an object; download it again")
    for alternatives in (("tokenizer.json", "vocab.json"), ("preprocessor_config.json", "processor_config.json")):
        if not any((folder / name).is_file() for name in alternatives):
            raise ParityError(f"{folder / alternatives[0]} does not exist; download it again")


def named_checkpoint(name: str) -> Path:
    """The folder that a user named, or the downloaded snapshot of a hub id.

    Raises ParityError or ReferenceModelError when it is neither.
    """
    try:
        return checkpoint_folder(name)
    except ReferenceModelError as error:
        if error.__cause__ is None:
            raise
        # The hub's own texts run over several lines.
        first = str(error).splitlines()[0].rstrip(".")
        raise ParityError(f"{first}; download it where the hub can be reached, and give its folder") from error


def make_seeded(folder: Path, shape: str = "tiny", **options: Any) -> Path:
    """``reference.checkpoint.make_checkpoint``. Raises ParityError where it refuses or the folder cannot be written."""
    try:
        return make_checkpoint(folder, shape, **options)
    except ValueError as error:
        raise ParityError(str(error)) from error
    except OSError as error:
        raise ParityError(f"{folder} cannot be made: {error.strerror or error}; name another folder") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json, after the port has checked it. Raises ConfigError."""
    port.Qwen3VLConfig.from_folder(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the names and contents of config.json and all safetensors files of a folder."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _with_text_flag(source: Path, target: Path, *, flag: bool) -> Path:
    """A copy of a checkpoint whose text_config has a ``tie_word_embeddings`` of its own."""
    if target.is_dir():
        return target
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        config = json.loads((work / "config.json").read_text(encoding="utf-8"))
        config["text_config"]["tie_word_embeddings"] = flag
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target
