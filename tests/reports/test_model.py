"""The drawing of the model: every seam has a place, colours follow the margin, and nothing is rounded over the gate."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from parity.seams.model import Dimensions, expected_model_seams, model_specs
from parity.seams.processor import processor_specs
from reports.model.layout import WIDTH, draw
from reports.model.page import nearest
from reports.model.parts import Part, Row, of_findings, of_seams, part_of, parts_of, tone
from tests.reports.kind_samples import signoff_document
from tests.reports.report_samples import run_document


def row(seam: str, ratio: float | None = 0.3, status: str = "ok", **given: Any) -> Row:
    made: dict[str, Any] = {
        "seam": seam, "status": status, "ratio": ratio, "figure": 1e-7, "gate": 4e-7, "comparison": "accumulated",
        "step": "prefill", "case": None, "values": 5, "failed": 0 if status == "ok" else 1, "link": None,
        "exact": False,
    }  # fmt: skip
    return Row(**(made | given))


def whole_model(layers: int = 5, blocks: int = 6, taps: int = 3) -> dict[str, Part]:
    expected = expected_model_seams(Dimensions(blocks, taps, layers), decode_steps=1, images=True, videos=True)
    seams = {item.key.name: item.spec.group for item in expected}
    seams |= {spec.name.format(0): spec.group for spec in processor_specs()}
    return parts_of((group, row(name)) for name, group in seams.items())


def test_every_seam_of_the_project_has_a_part_of_its_own_place() -> None:
    other = {"forward.logits": "calls", "prefill_last.chunked": "calls", "refused.batch": "refusals"}
    assert {name: part_of(name, "output")[0] for name in other} == other
    for spec in (*model_specs(), *processor_specs()):
        name, title = part_of(spec.name.format(0), spec.group)
        assert name != "other", spec.name
        assert title
    assert part_of("model.layers.0.mlp.weight", "weights")[0] == "weights"
    assert part_of("generation.tokens", "generation")[0] == "generation"
    assert part_of("something.new", "text") == ("other", "other seams")


@pytest.mark.parametrize(("layers", "blocks", "taps"), [(5, 6, 3), (28, 24, 3), (36, 27, 3), (1, 1, 0), (4, 4, 2)])
def test_boxes_do_not_overlap_and_stay_inside(layers: int, blocks: int, taps: int) -> None:
    drawing = draw(whole_model(layers, blocks, taps))
    assert drawing is not None
    assert len({box.id for box in drawing.boxes}) == len(drawing.boxes)
    for a, b in combinations(drawing.boxes, 2):
        apart = a.right <= b.x or b.right <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
        assert apart, (a.id, b.id)
    assert all(box.x >= 0 and box.right <= WIDTH and box.y + box.height <= drawing.height for box in drawing.boxes)
    assert len(drawing.deepstack) == min(taps, layers)


def test_a_text_alone_is_drawn_with_an_empty_tower() -> None:
    parts = {
        name: part for name, part in whole_model().items() if part.id in ("inputs", "embedding", "layer-0", "norm")
    }
    drawing = draw(parts)
    assert drawing is not None
    tones = {box.id: box.tone for box in drawing.boxes}
    assert tones["merger"] == tones["pictures"] == "none"
    assert tones["norm"] == "fair"
    assert draw({}) is None


@pytest.mark.parametrize(
    ("ratio", "status", "exact", "expected"),
    [(0.1, "ok", False, "wide"), (0.25, "ok", False, "wide"), (0.26, "ok", False, "fair"), (0.75, "ok", False, "close"),
     (1.0, "ok", False, "near"), (0.2, "diverged", False, "over"), (None, "missing", False, "over"),
     (None, "ok", True, "exact"), (None, "ok", False, "none"), (1.01, "ok", False, "over")],
)  # fmt: skip
def test_the_tone_follows_the_margin(ratio: float | None, status: str, exact: bool, expected: str) -> None:
    assert tone(status, ratio, exact=exact) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0, "0\u00d7"), (0.456, "0.45\u00d7"), (0.9999, "0.99\u00d7"), (1.0, "1.00\u00d7"), (1.0001, "1.1\u00d7"),
     (9.99, "10.0\u00d7"), (123.4, "123\u00d7"), (29707.0, "30k\u00d7"), (3.2e7, "32M\u00d7"), (5e13, ">1T\u00d7")],
)  # fmt: skip
def test_figures_are_short_and_never_cross_the_gate(ratio: float, expected: str) -> None:
    (part,) = parts_of([("text", row("text.norm", ratio, "ok" if ratio <= 1 else "diverged"))]).values()
    assert part.figure == expected


def test_a_part_is_as_bad_as_its_worst_seam() -> None:
    rows = [
        row("text.layers.0.out", 0.9),
        row("text.layers.0.mlp.out", 0.1, "missing"),
        row("text.layers.0.attn.v", 0.2),
    ]
    (part,) = parts_of(("text", found) for found in rows).values()
    assert part.tone == "over"
    assert part.worst.seam == "text.layers.0.mlp.out"
    assert (part.failed, part.values) == (1, 15)
    assert "1 value of 15 failed. Worst: text.layers.0.mlp.out, missing" in part.sentence


def test_a_run_marks_where_it_first_goes_wrong() -> None:
    document = run_document(diverged=True)
    parts = of_findings(document["findings"], document["verdict"]["first_divergence"])
    assert [part.id for part in parts.values() if part.starts] == ["add-1"]
    assert nearest(parts)[0].seam == "text.layers.1.deepstack"
    assert not any(part.starts for part in of_findings(run_document()["findings"], None).values())


def test_a_part_that_fails_alone_is_marked_in_a_sign_off() -> None:
    parts = of_seams(signoff_document()["seams"], {"case:text:float32": "#phase-1"})
    assert [part.id for part in parts.values() if part.starts] == ["layer-0"]
    assert parts["layer-0"].rows[0].link == "#phase-1"
    assert nearest(parts)[0].seam == "text.layers.0.mlp.out"
