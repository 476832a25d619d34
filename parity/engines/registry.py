"""All engines that answer questions, by the names that commands use.

To add an engine, write a class that follows ``questions.AnsweringEngine`` in this folder, and add a line here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from parity.core.errors import ParityError

if TYPE_CHECKING:
    from parity.engines.questions import AnsweringEngine  # needs the reference's package

# Module and class. An engine's packages are only imported when it is used.
_PLACES = {
    "reference": "parity.engines.reference:ReferenceAnswers",
    "port": "parity.engines.port:PortAnswers",
    "mistralrs": "parity.engines.mistralrs:MistralRs",
    "llamacpp": "parity.engines.llamacpp:LlamaCpp",
    "llama-server": "parity.engines.llama_server:LlamaServer",
}
# These two are judged; all others are only measured.
JUDGED = ("reference", "port")
NAMES = tuple(_PLACES)
FOREIGN = tuple(name for name in NAMES if name not in JUDGED)


def engine(name: str) -> AnsweringEngine:
    """Make an engine. Raises ParityError for an unknown name, and lists the known ones."""
    if name not in _PLACES:
        raise ParityError(f"there is no engine {name!r}; choose from {', '.join(NAMES)}")
    module, _, attribute = _PLACES[name].partition(":")
    made: AnsweringEngine = getattr(import_module(module), attribute)()
    return made
