"""All mutants, in the order of the computation."""

from __future__ import annotations

from collections.abc import Sequence

from parity.core.errors import ParityError
from parity.mutants.base import Mutant
from parity.mutants.mistakes import (
    calls,
    generation,
    inputs,
    kept,
    loading,
    merger,
    patches,
    positions,
    processor,
    prompts,
    rope,
    sampling,
    scatter,
    settings,
    state,
    text,
    vision,
)

_FILES = (
    processor, prompts, settings, loading, inputs, positions, patches, vision, merger, scatter, rope, state, kept, text,
    calls, generation, sampling,
)  # fmt: skip
ALL: tuple[Mutant, ...] = tuple(mutant for file in _FILES for mutant in file.MUTANTS)


def chosen(ids: Sequence[str]) -> list[Mutant]:
    """The mutants with these ids, or all without ids. Raises ParityError for an unknown id."""
    by_id = {mutant.id: mutant for mutant in ALL}
    unknown = [name for name in ids if name not in by_id]
    if unknown:
        raise ParityError(f"there is no mutant {', '.join(unknown)}; choose from {', '.join(sorted(by_id))}")
    return [by_id[name] for name in dict.fromkeys(ids)] if ids else list(ALL)
