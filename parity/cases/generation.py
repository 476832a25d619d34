"""Cases of generation: from logits to tokens and text, and what ``generation_config.json`` says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from parity.cases.case import ODD, TINY, TRAINED, Case, Request
from parity.cases.media import Clip, Noise, Photo, scene_row

_END = 3
# Values of the fields of generation_config.json; ABSENT leaves a field out. The first ones do nothing.
ABSENT = object()
FIELDS: dict[str, tuple[Any, ...]] = {
    "do_sample": (False, True, ABSENT, None),
    "temperature": (1.0, 0.7, 1.9, ABSENT, None),
    "top_k": (0, 5, 1, ABSENT, 10_000),
    "top_p": (1.0, 0.8, 0.3, ABSENT, None, 0.0),
    "min_p": (0.0, 0.05, 0.4, ABSENT, None, 1.0),
    "repetition_penalty": (1.0, 1.3, 0.7, ABSENT, None),
    "eos_token_id": (_END, [_END, 5], [9, 5, 7]),
    "max_new_tokens": (1, ABSENT, 2),
    # These change nothing.
    "pad_token_id": (0, ABSENT),
    "bos_token_id": (ABSENT, 1, None),
    "num_beams": (ABSENT, 1),
}


def config(**fields: Any) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a ``generation_config.json`` as a request holds them, without those that are ABSENT."""
    return tuple((name, value) for name, value in fields.items() if value is not ABSENT)


def settings_requests() -> tuple[Request, ...]:
    """Return requests in which every value of a field meets every value of every other field."""
    requests = []
    for number, chosen in enumerate(all_pairs(FIELDS)):
        # The argument is sometimes below the file's number, sometimes above it.
        most = 1 if chosen["max_new_tokens"] is ABSENT or number % 3 == 0 else 2 if number % 3 == 1 else None
        requests.append(Request(config(**chosen), most, seed=number))
    return tuple(requests)


def all_pairs(fields: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return choices of one value for each field, so that each pair of values of two fields is in one of them.

    Each choice takes the pair that is still missing and, field by field, the value with the most missing pairs.
    """
    places = {name: range(len(values)) for name, values in fields.items()}
    missing = {
        ((left, at), (right, to))
        for left, right in combinations(fields, 2)
        for at in places[left]
        for to in places[right]
    }
    order = {name: number for number, name in enumerate(fields)}
    choices = []
    while missing:
        first = min(missing, key=lambda pair: [(order[name], at) for name, at in pair])
        chosen = dict(first)
        for name in fields:
            if name not in chosen:
                chosen[name] = max(places[name], key=lambda at: (_new(name, at, chosen, missing, order), -at))
        for left, right in combinations(fields, 2):
            missing.discard(((left, chosen[left]), (right, chosen[right])))
        choices.append({name: fields[name][chosen[name]] for name in fields})
    return choices


def _new(name: str, at: int, chosen: dict[str, int], missing: set[Any], order: dict[str, int]) -> int:
    """Return how many missing pairs a value makes with those that are chosen."""
    pairs = (sorted(((name, at), (other, to)), key=lambda item: order[item[0]]) for other, to in chosen.items())
    return sum(tuple(pair) in missing for pair in pairs)


def generation_cases() -> Sequence[Case]:
    """Return the cases of generation of the standard suite."""
    drawing = config(do_sample=True, temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1, eos_token_id=_END)
    plain = config(do_sample=True, top_k=0, min_p=0.02, eos_token_id=_END)
    greedy = config(eos_token_id=_END)
    penalised = config(repetition_penalty=1.4, eos_token_id=_END)
    mixed = (
        ("What moves? ", Clip(8, 128, 96), " Answer in a word."),
        ("Hi.",),
        ("A long question that is about nothing at all, and goes on for a while: ", Noise(96, 64, seed=3), " what?"),
        ("Colour?", Photo((64, 96))),
    )
    return (
        _case(
            "generation-settings",
            "every pair of values in generation_config.json",
            1,
            (("Name an animal with ",), ("Who is this? ", Photo((64, 64)))),
            settings_requests(),
        ),
        _case(
            "generation-left",
            "rows that end at different times, padded left; greedy, drawn, with penalties",
            4,
            mixed,
            (
                Request(greedy, 7, end_after=(4, 2, None, 6)),
                Request(drawing, 6, seed=3, end_after=(None, 3, 5, None)),
                Request(penalised, 6),
                Request(plain, 4, seed=11),
                Request(drawing, 4, seed=3),
            ),
        ),
        _case(
            "generation-right",
            "rows that end at different times, padded right, prefilled in chunks",
            4,
            mixed[::-1],
            (
                Request(greedy, 6, end_after=(2, None, 5, 3)),
                Request(drawing, 6, seed=4, end_after=(None, 1, None, 4)),
                Request(penalised, 5, end_after=(3, None, None, None)),
            ),
            padding_side="right",
            chunk=19,
        ),
        _case(
            "generation-odd",
            "merge 3, temporal patch 4: one row with media, with other requests generated in turn",
            1,
            ((Clip(9, 126, 168), " so ", Noise(210, 126, seed=4), " and?"),),
            (Request(penalised, 5), Request(plain, 5, seed=2), Request(greedy, 1)),
            checkpoint=ODD,
            before=(Case("other", "", 1, ODD, (("Before. ", Noise(126, 168, seed=6)),)),),
            between=(Case("same", "", 1, ODD, (("In turn with it. ", Noise(126, 168, seed=7), " Then?"),)),),
        ),
        _case(
            "generation-trained",
            "the trained model answers, ends by itself, and is asked to draw",
            4,
            (scene_row(0), scene_row(1, clip=True), scene_row(2)),
            (
                Request(None, 12),
                Request(config(do_sample=True, temperature=5.0, top_p=0.97, eos_token_id=[398, 396]), 8, seed=5),
            ),
            checkpoint=TRAINED,
        ),
    )


def _case(name: str, title: str, phase: int, rows: tuple[Any, ...], requests: tuple[Request, ...], **own: Any) -> Case:
    given = {"checkpoint": TINY, **own}
    return Case(name, title, phase, rows=rows, requests=requests, stages=("processor", "generation"), **given)
