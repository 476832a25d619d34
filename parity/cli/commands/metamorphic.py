"""``parity metamorphic``: runs one example of a relation, given as JSON."""

from __future__ import annotations

import click

from parity.core.errors import ParityError
from parity.relations.relations import AGREEMENT, RELATIONS, check
from parity.relations.spec import Spec


def metamorphic(*, relation: str, spec: str) -> int:
    """Run the command. Returns 1 if the port breaks the relation."""
    if relation not in RELATIONS:
        raise ParityError(f"there is no relation {relation!r}; choose one of {', '.join(RELATIONS)}")
    try:
        example = Spec.from_json(spec)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParityError(f"--spec is not an example: {error!r}; give the JSON that a failing test printed") from None
    worst, verdict = check(relation, example)
    click.echo(f"{verdict.name}  {relation}: the worst row is off by {worst:.2e}, allowed {AGREEMENT:g}")
    return verdict.exit_code
