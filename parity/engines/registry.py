"""Every engine that answers questions, by the name that commands use.

To add one: a file in this folder with a class that follows ``questions.AnsweringEngine``, and a line here.
"""

from __future__ import annotations

from importlib import import_module

from parity.core.errors import ParityError
from parity.engines.questions import AnsweringEngine

# Module and class: an engine's own packages are imported when it runs.
_PLACES = {
    "reference": "parity.engines.reference:ReferenceAnswers",
    "port": "parity.engines.port:PortAnswers",
    "mistralrs": "parity.engines.mistralrs:MistralRs",
}
# The two that are judged; all others are measured.
JUDGED = ("reference", "port")
NAMES = tuple(_PLACES)
FOREIGN = tuple(name for name in NAMES if name not in JUDGED)


def engine(name: str) -> AnsweringEngine:
    """A fresh engine. Raises ParityError naming the engines that there are."""
    if name not in _PLACES:
        raise ParityError(f"there is no engine {name!r}; choose from {', '.join(NAMES)}")
    module, _, attribute = _PLACES[name].partition(":")
    made: AnsweringEngine = getattr(import_module(module), attribute)()
    return made
