"""The seams of the stage ``refusals``: each says whether one kind of bad input is refused.

There is no reference: that a port names what is wrong with its input, rather than running on, is asked of the port.
"""

from __future__ import annotations

from collections.abc import Iterable

from parity.core.trace import SeamKey
from parity.seams.spec import Expected, SeamSpec


def expected_refusals(names: Iterable[str]) -> list[Expected]:
    """Return an exact value for each kind of bad input: 1 if it is refused, with a message that names the reason."""
    specs = (SeamSpec(f"refused.{name}", ("row",), "the contract of the port", "inputs", "exact") for name in names)
    return [Expected(SeamKey(spec.name, 0), spec, "refusals", None) for spec in specs]
