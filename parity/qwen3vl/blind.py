"""What a run cannot see: the known mistakes that would pass, because of the input or the dtype."""

from __future__ import annotations

from parity.core.trace import Trace
from parity.qwen3vl.cases import Case
from parity.qwen3vl.inputs import CaseInputs
from parity.qwen3vl.mutants.registry import ALL
from parity.qwen3vl.mutants.trials import Trial, front_traits, traits


def blind_to(case: Case, inputs: CaseInputs | None, trace: Trace | None, dtype: str) -> list[dict[str, str]]:
    """Id, title and reason of every mutant that this case cannot expose at this dtype of the subject.

    ``inputs`` and the yardstick's ``trace`` are None where weights alone are checked.
    float16 is taken for bfloat16's finer sister: what bfloat16 shows, it shows.
    """
    trial = Trial(case)
    present = traits(trial, inputs, trace)
    seen_before = frozenset() if inputs is None else front_traits(trial, inputs.front)
    seen_as = "bfloat16" if dtype == "float16" else dtype
    blind = []
    for mutant in ALL:
        absent = sorted(mutant.needs - (seen_before if mutant.front else present))
        if absent:
            why = f"the input lacks: {', '.join(absent)}"
        elif seen_as not in mutant.dtypes and not mutant.front:
            why = mutant.invisible
        else:
            continue
        blind.append({"id": mutant.id, "title": mutant.title, "why": why})
    return blind
