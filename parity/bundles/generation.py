"""The generation stage in a bundle: what a request asks for, and whether the reference's answer can be right.

Shape legend
    B, V   rows, vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.bundles.bundle import BundleCase
from parity.bundles.files import BundleError
from parity.bundles.trace import BundleTrace
from parity.core.trace import PADDING, SeamKey
from parity.seams.contract import check_expected
from parity.seams.generation import (
    ENDED,
    KEPT,
    LOGITS,
    PENALTY,
    PROBABILITIES,
    SETTINGS,
    TOKENS,
    RequestPlan,
    expected_generation_seams,
    rows_of,
    token_specs,
)

_MOST = 1 + 1e-4  # a sum of float32 probabilities


def plans_of(requests: Sequence[Mapping[str, Any]], rows: int) -> list[RequestPlan]:
    """Return what is expected of the requests of a record."""
    return [RequestPlan(rows, request["do_sample"], request["tokens"]) for request in requests]


def check_generation(case: BundleCase, reference: BundleTrace) -> None:
    """Raise BundleError for a reference that is not an answer to the bundle's requests.

    Rows are left out only where they have ended, or where rounding may decide. A row that has ended stays ended, and
    the last token of a request ends all rows. Greedy tokens are the likeliest, drawn ones are among those left.
    """
    requests = case.record["generation"]["requests"]
    check_expected(reference, expected_generation_seams(plans_of(requests, len(case.record["rows"]))))
    call = drawn = 0
    for number, request in enumerate(requests):
        _check_settings(reference, number, request)
        over = np.zeros(len(case.record["rows"]), dtype=bool)  # (B,)
        for token in range(1, request["tokens"] + 1):
            where = f"request {number}, token {token}"
            _check_rows(reference, request["do_sample"], call, drawn, over, where)
            over = _check_token(reference, request["do_sample"], call, drawn, over, where)
            call += 1
            drawn += request["do_sample"]
        if not over.all():
            raise BundleError(f"its request {number} stops while rows {np.flatnonzero(~over).tolist()} have not ended")


def _check_settings(reference: BundleTrace, number: int, request: Mapping[str, Any]) -> None:
    found = dict(zip(SETTINGS, reference.read(SeamKey("generation.settings", number)).tolist(), strict=True))
    if bool(found["do_sample"]) != request["do_sample"]:
        raise BundleError(f"its request {number} draws: {request['do_sample']}, its settings say {found['do_sample']}")
    if request["max_new_tokens"] is not None and found["max_new_tokens"] != request["max_new_tokens"]:
        raise BundleError(
            f"its request {number} asks for {request['max_new_tokens']} tokens, its settings say "
            f"{found['max_new_tokens']:g}"
        )
    if request["tokens"] > found["max_new_tokens"]:
        raise BundleError(
            f"its request {number} has {request['tokens']} tokens, its settings allow {found['max_new_tokens']:g}"
        )


def _check_rows(reference: BundleTrace, do_sample: bool, call: int, drawn: int, over: np.ndarray, where: str) -> None:
    """Rows may be left out where they have ended, and of exact values also where correct runs differ."""
    decided_by_rounding = {spec.name for spec in (*KEPT.values(), TOKENS)}
    for spec in token_specs(do_sample):
        key = SeamKey(spec.name, _call(spec.name, call, drawn))
        hidden = reference.labels(rows_of(key)) == PADDING
        wrong = hidden != over
        if spec.name in decided_by_rounding:
            wrong = ~hidden & over
        if wrong.any():
            raise BundleError(
                f"its labels of {key} ({where}) leave out rows {np.flatnonzero(hidden).tolist()}; rows "
                f"{np.flatnonzero(over).tolist()} have ended"
            )


def _check_token(
    reference: BundleTrace, do_sample: bool, call: int, drawn: int, over: np.ndarray, where: str
) -> np.ndarray:
    """Check one token of all rows. Returns which rows (B,) have ended after it."""
    rows = np.flatnonzero(~over)
    tokens = reference.read(SeamKey(TOKENS.name, call))
    seen = reference.labels(rows_of(SeamKey(TOKENS.name, call))) != PADDING
    scores = reference.read(SeamKey(PENALTY.name, call))  # (B, V)
    for row, token in enumerate(tokens.tolist()):
        if not 0 <= token < scores.shape[1]:
            raise BundleError(f"its token {token} of row {row} ({where}) is not in the vocabulary of {scores.shape[1]}")
        if seen[row] and not do_sample and scores[row, token] < scores[row].max():
            raise BundleError(f"its token {token} of row {row} ({where}) is not the likeliest")
    if do_sample:
        _check_drawn(reference, drawn, rows, np.flatnonzero(seen), tokens, where)
    ended = reference.read(SeamKey(ENDED.name, call)).astype(bool)
    if (over & ~ended).any():
        raise BundleError(f"its rows {np.flatnonzero(over & ~ended).tolist()} have ended, but go on at {where}")
    return ended


def _check_drawn(
    reference: BundleTrace, drawn: int, rows: np.ndarray, seen: np.ndarray, tokens: np.ndarray, where: str
) -> None:
    probabilities = reference.read(SeamKey(PROBABILITIES.name, drawn))  # (B, V)
    sums = probabilities[rows].sum(axis=1)
    if (np.abs(sums - 1) > _MOST - 1).any() or (probabilities[rows] < 0).any():
        raise BundleError(f"its probabilities at {where} do not add up to 1")
    for row in seen:
        if not probabilities[row, int(tokens[row])] > 0:
            raise BundleError(f"its token {int(tokens[row])} of row {row} ({where}) has no probability")


def _call(name: str, call: int, drawn: int) -> int:
    """Seams of drawing are only there in requests that draw."""
    return call if name in {LOGITS.name, PENALTY.name, TOKENS.name, ENDED.name} else drawn
