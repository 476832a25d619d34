"""Builds the document that compares greedy tokens of the port and another engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.answers.tokens import TokenComparison
from parity.documents.base import document, verdict_section


def tokens_document(found: TokenComparison, *, environment: Mapping[str, Any]) -> dict[str, Any]:
    reason = f"port against {found.engine}, {len(found.engine_tokens)} tokens"
    return document(
        "tokens",
        environment,
        engine=found.engine,
        prompt=found.prompt,
        prompt_tokens={"port": found.port_prompt_tokens, "engine": found.engine_prompt_tokens},
        tokens={"port": list(found.port_tokens), "engine": list(found.engine_tokens)},
        largest_logprob_difference=found.largest_difference,
        verdict=verdict_section(found.verdict, reason),
    )
