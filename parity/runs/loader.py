"""Finds or makes checkpoints, and loads models and processors once for several cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import port
from parity.cases.case import Case, Checkpoint, TrainedCheckpoint
from parity.core.digest import checkpoint_digest
from parity.core.errors import ParityError
from parity.engines.busy import BusyPortProcessor, OtherRequest, OtherRequests
from parity.engines.dtypes import DTYPES
from parity.engines.port import PortProcessor, PortWeights, port_processor
from parity.runs.inputs import CaseInputs, prepare_inputs
from parity.runs.seeded import cache_folder, seeded_checkpoint
from parity.runs.store import NOT_KEPT, TraceStore
from reference.errors import ReferenceModelError
from reference.model import ReferenceModel
from reference.processor import ReferenceProcessor
from reference.trained import trained_checkpoint
from reference.version import transformers_major

_PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)


class Loader:
    """Keeps the models of one checkpoint, one for each dtype. Loading another folder drops the previous ones.

    The models of both sides are on ``device``.
    """

    def __init__(self, folder: Path | None = None, *, device: torch.device | str = "cpu") -> None:
        self.folder, self.device = folder or cache_folder(), torch.device(device)
        self._folder: str | None = None  # of the models that are kept
        self._references: dict[str, ReferenceModel] = {}  # by dtype
        self._ports: dict[str, port.Qwen3VL] = {}
        self._processors: tuple[str, ReferenceProcessor] | None = None
        self._port_processors: dict[bool, port.Processor] = {}  # by whether texts may hold turn tokens
        self._others: tuple[Case, Path, OtherRequests] | None = None
        self._digests: dict[Path, str] = {}

    def checkpoint(self, spec: Checkpoint) -> Path:
        """Return the folder of the trained model, or of a seeded checkpoint, which is made if needed."""
        if isinstance(spec, TrainedCheckpoint):
            return trained_checkpoint()
        return seeded_checkpoint(spec, self.folder)

    def for_reference(self, spec: Checkpoint) -> Path:
        """Return the folder from which the installed transformers reads the same model.

        transformers 4.57 cannot read the rope_parameters dialect, and uses a tie_word_embeddings in text_config. It
        gets an equal checkpoint without them. This is enough, as those cases test how the port reads the config.
        """
        if transformers_major() < 5 and not isinstance(spec, TrainedCheckpoint):
            spec = replace(spec, rope_dialect="rope_scaling", text_tie_flag=None)
        return self.checkpoint(spec)

    def reference(self, folder: str | Path, dtype: str) -> ReferenceModel:
        self._switch(folder)
        if dtype not in self._references:
            with _loading(f"the reference cannot load {folder}"):
                self._references[dtype] = ReferenceModel.load(folder, dtype=DTYPES[dtype], device=self.device)
        return self._references[dtype]

    def port(self, folder: Path, dtype: str) -> port.Qwen3VL:
        self._switch(folder)
        if dtype not in self._ports:
            self._ports[dtype] = port.load_model(folder, dtype=DTYPES[dtype], device=self.device)
        return self._ports[dtype]

    @property
    def model_bytes(self) -> int:
        """Bytes of the parameters of the models that are kept. Some of the port's are those of mapped files."""
        models = [*self._ports.values(), *(reference.model for reference in self._references.values())]
        return sum(tensor.nbytes for model in models for tensor in model.parameters())

    def processor(self, folder: str | Path) -> ReferenceProcessor:
        """Return the reference's processor. It has no dtype."""
        if self._processors is None or self._processors[0] != str(folder):
            _check_processor_files(Path(folder))
            with _loading(f"the processor of {folder} cannot be loaded"):
                self._processors = str(folder), ReferenceProcessor.load(folder)
        return self._processors[1]

    def inputs(self, case: Case, folder: Path, *, store: TraceStore = NOT_KEPT, digest: bool = False) -> CaseInputs:
        """Run the reference's processor on a case. With ``digest``, the inputs know their checkpoint's sha256.

        Raises the errors of ``prepare_inputs``.
        """
        return prepare_inputs(
            case,
            processor=self.processor(folder),
            config=plain_config(folder),
            checkpoint=self.digest(folder) if digest or store.folder is not None else None,
            store=store,
        )

    def digest(self, folder: Path) -> str:
        """``checkpoint_digest``, computed once for each folder."""
        if folder not in self._digests:
            self._digests[folder] = checkpoint_digest(folder)
        return self._digests[folder]

    def port_processor(self, folder: Path, case: Case | None = None, *, anew: bool = True) -> PortProcessor:
        """Return the port's processor, which serves the requests before ``case`` first.

        Without ``anew`` it is loaded once for all cases of a checkpoint, as the model is.
        """
        self._switch(folder)
        turns = case is not None and case.prompting.turn_tokens
        if anew or turns not in self._port_processors:
            loaded = port_processor(folder, turn_tokens=turns)
            if not anew:
                self._port_processors[turns] = loaded
        else:
            loaded = self._port_processors[turns]
        before = () if case is None or not case.before else self.other_requests(case, folder).before
        return BusyPortProcessor(loaded, before)

    def other_requests(self, case: Case, folder: Path) -> OtherRequests:
        """Prepare the requests that the port serves before and during the case."""
        if self._others is None or self._others[:2] != (case, folder):
            before, between = (
                [self._request(other, folder) for other in requests] for requests in (case.before, case.between)
            )
            self._others = case, folder, OtherRequests(before, between)
        return self._others[2]

    def _request(self, case: Case, folder: Path) -> OtherRequest:
        inputs = self.inputs(case, folder)
        return OtherRequest(inputs.processed.batch, inputs.tensors, case.fault)

    def port_weights(self, case: Case, folder: Path) -> PortWeights:
        """Return the port's tensors in the checkpoint's own dtype."""
        dtype = case.checkpoint.dtype
        return PortWeights(lambda: self.port(folder, dtype), dtype)

    def _switch(self, folder: str | Path) -> None:
        if str(folder) != self._folder:
            self._folder, self._references, self._ports, self._port_processors = str(folder), {}, {}, {}


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn loading errors into ParityError. Libraries raise many classes (tokenizers: a plain Exception)."""
    try:
        yield
    except (ReferenceModelError, ImportError):
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ParityError(f"{what}: {kind}: {error}; fix the checkpoint or download it again") from error


def _check_processor_files(folder: Path) -> None:
    """Check files that transformers would silently replace with defaults, or refuse without naming them."""
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


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json, after the port has checked it. Raises ConfigError."""
    port.Qwen3VLConfig.from_folder(folder)
    return plain_config(folder)


def plain_config(folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a checkpoint that the harness made or has checked."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
