"""Realistic report documents for the tests; run as a script, it writes sample reports to a folder.

python tests/reports/report_samples.py OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
from PIL import Image, ImageDraw

Document = dict[str, Any]
BAD_PATCH = {0: (5, 7), 1: (2, 9)}  # picture -> (row, column) of the planted worst patch
GRIDS = {0: (19, 16), 1: (8, 12)}
ROWS = {"vision": 1216, "merged": 304, "text": 430}


def environment() -> Document:
    return {
        "created": "2026-03-14T09:26:53Z",
        "command": "parity run photo --subject port --dtype float32 --out parity-reports/photo",
        "seed": 0,
        "threads": 2,
        "python": "3.11.7",
        "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
        "machine": "x86_64",
        "cpu": "AMD EPYC 9354P 32-Core Processor",
        "packages": {
            "numpy": "2.4.6",
            "pillow": "13.0.0",
            "safetensors": "0.7.0",
            "torch": "2.14.1",
            "torchvision": "0.29.1",
            "transformers": "5.23.0",
        },
    }


def run_document(*, diverged: bool = False, decode_steps: int = 8, seed: int = 0) -> Document:
    """A run over a photo and a drawing. Diverged: DeepStack adds its features to the wrong rows in layer 1."""
    rng = np.random.default_rng(seed)
    findings: list[Document] = []
    wrong_from = "text.layers.1.deepstack" if diverged else None
    state = {"wrong": False, "drift": 1.0}

    def add(seam: str, group: str, *, step: str, kind: str = "float", shape: list[int], rows: int) -> None:
        item: Document = {
            "index": len(findings), "seam": seam, "call": 0, "step": step, "group": group, "gate_kind": kind,
            "shape": shape, "subject_shape": list(shape), "dtype": "float32", "status": "ok", "rows": rows,
            "rows_failed": 0, "worst_row": None, "figure": None, "gate": None, "ratio": None, "floor": None,
            "max_abs": None, "rmse": None, "cosine": None, "mismatches": None, "exact_share": None,
            "by_kind": {}, "note": "", "isolated": None, "origin": "", "side": None,
        }  # fmt: skip
        if kind == "exact":
            item |= {"dtype": "int64", "mismatches": 0, "max_abs": 0.0}
        elif kind == "steps":
            item |= {"exact_share": 1.0, "figure": 0.0, "gate": 1.0, "ratio": 0.0, "mismatches": 0, "max_abs": 0.0}
        else:
            if seam == wrong_from and step == "prefill":
                state["wrong"] = True
            state["drift"] *= 1.004
            floor = 1.4e-7 * state["drift"] * float(np.exp(rng.normal(0, 0.25)))
            gate = 4.0 * floor + 4.8e-7
            figure = floor * float(np.exp(rng.normal(0.15, 0.3)))
            kinds = ["image"] if group == "vision" else ["text", "image", "boundary"]
            by_kind = {name: figure / gate * float(rng.uniform(0.5, 1.0)) for name in kinds}
            if seam.endswith((".cos", ".pos_embed")):
                figure, by_kind = 0.0, dict.fromkeys(kinds, 0.0)
            if state["wrong"] and group != "vision":
                figure = 2.2e-2 * float(np.exp(rng.normal(0, 0.35)))
                by_kind = {
                    "text": 0.4 if seam == wrong_from else figure / gate / 90,
                    "image": figure / gate,
                    "boundary": figure / gate / 7,
                }
                failed = 304 if step == "prefill" else 1
                item |= {"status": "diverged", "rows_failed": min(failed, rows)}
            token = int(rng.integers(4, max(5, min(rows, 200))))
            item |= {
                "floor": floor, "gate": gate, "figure": figure, "ratio": figure / gate, "max_abs": figure * 3.1,
                "rmse": figure * 0.21, "cosine": 1.0 - min(figure**2, 0.4), "by_kind": by_kind,
                "worst_row": f"batch 0, token {token} ({'image' if group == 'vision' or state['wrong'] else 'text'})",
                "origin": "noise",
            }  # fmt: skip
            alone = {"status": "ok", "figure": floor, "gate": gate, "ratio": floor / gate}
            if item["status"] == "diverged":
                starts = seam == wrong_from and step == "prefill"
                item["origin"] = "starts here" if starts else "comes from upstream"
                alone = (
                    {"status": "diverged", "figure": figure, "gate": gate, "ratio": figure / gate} if starts else alone
                )
            item["isolated"] = {**alone, "worst_row": item["worst_row"]}
        findings.append(item)

    first = {"step": "prefill"}
    for name in ("input_ids", "attention_mask", "image_grid_thw", "image_mask", "position_ids", "rope_delta"):
        add(f"inputs.{name}", "inputs", kind="exact", shape=[2, 215], rows=430, **first)
    add("inputs.pixel_values", "inputs", kind="steps", shape=[1216, 1536], rows=1216, **first)
    for name in ("patch_embed", "pos_embed", "rotary.cos", "rotary.sin"):
        add(f"vision.{name}", "vision", shape=[1216, 64], rows=1216, **first)
    add("vision.cu_seqlens", "vision", kind="exact", shape=[3], rows=3, **first)
    for block in range(12):
        for name in ("norm1", "attn.q_rope", "attn.k_rope", "attn.out", "mlp.out", "out"):
            add(f"vision.blocks.{block}.{name}", "vision", shape=[1216, 64], rows=1216, **first)
        if block in (4, 7, 10):
            add(f"vision.deepstack.{(block - 4) // 3}", "vision", shape=[304, 128], rows=304, **first)
    add("vision.merger", "vision", shape=[304, 128], rows=304, **first)
    for step in ["prefill", *(f"decode {number + 1}" for number in range(decode_steps))]:
        width = 215 if step == "prefill" else 1
        add("text.embed", "text", step=step, shape=[2, width, 128], rows=2 * width)
        add("text.embed_scattered", "text", step=step, shape=[2, width, 128], rows=2 * width)
        add("text.rotary.cos", "text", step=step, shape=[2, width, 32], rows=2 * width)
        for layer in range(8):
            names = ["input_norm", "attn.q_norm", "attn.q_rope", "attn.k_rope", "attn.out", "mlp.out", "out"]
            names += ["deepstack"] if layer < 3 and step == "prefill" else []
            for name in names:
                add(f"text.layers.{layer}.{name}", "text", step=step, shape=[2, width, 128], rows=2 * width)
        add("cache.keys", "cache", step=step, shape=[8, 2, 2, 215, 32], rows=430)
        add("text.norm", "output", step=step, shape=[2, width, 128], rows=2 * width)
        add("logits", "output", step=step, shape=[2, width, 512], rows=2 * width)

    failing = [finding["index"] for finding in findings if finding["status"] != "ok"]
    if diverged:
        late = findings[-3]
        late |= {"status": "missing", "note": "the subject's trace has no such seam", "by_kind": {}}
        late |= {"isolated": None, "origin": ""}
        unmeasured = ("subject_shape", "figure", "ratio", "worst_row", "rows_failed", "max_abs", "rmse", "cosine")
        late |= dict.fromkeys(unmeasured)
        findings[failing[0]]["note"] = "Rows 0 to 303 differ; the sum of all rows agrees to 2e-7."
    compared = sum(finding["status"] != "missing" for finding in findings)
    steps = ["prefill", *(f"decode {number + 1}" for number in range(decode_steps))]
    return {
        "schema_version": "2.0",
        "kind": "run",
        "environment": environment(),
        "subject": {"name": "port", "detail": "qwen3vl-parity port 0.1.0", "dtype": "float32"},
        "reference": {"name": "transformers", "detail": "5.23.0, eager, true float64 yardstick", "dtype": "float32"},
        "kernels": {
            "instructions": "AVX2",
            "kernels": "fast",
            "products": "compiled kernels up to 32 rows, then torch",
        },
        "checkpoint": {
            "name": "seeded tiny",
            "path": "golden/tiny/model.safetensors",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "parameters": 1_482_880,
            "tied": False,
        },
        "case": {
            "name": "photo-and-drawing",
            "title": "Two pictures, batch of two, left padding",
            "phase": 1,
            "phase_title": "base model and vision pipeline",
            "mode": f"prefill + {decode_steps} decode steps",
            "batch": 2,
            "padding_side": "left",
            "rows": [
                {
                    "text": _prompt("Who is in this picture, and what does she wear?"),
                    "images": 1,
                    "videos": 0,
                    "tokens": 215,
                },
                {
                    "text": _prompt("Describe the drawing."),
                    "images": 1,
                    "videos": 0,
                    "tokens": 121,
                },
            ],
            "steps": steps,
            "generated": [
                {
                    "row": 0,
                    "token_ids": [32, 5220, 304, 264, 32795, 13794, 13, 151645][: decode_steps + 1],
                    "text": "A woman in a navy uniform.<|im_end|>",
                },
                {
                    "row": 1,
                    "token_ids": [11613, 26884, 323, 264, 3041, 13, 151645][: decode_steps + 1],
                    "text": "Three circles and a line.<|im_end|>",
                },
            ],
        },
        "gate": {
            "rule": "for every token row: |subject - yardstick| / |yardstick| <= m * floor + ulp floor",
            "m": 4.0,
            "ulp_floor": 4.8e-7,
            "floor_runs": ["eager", "sdpa", "right padding", "inputs moved by one ulp"],
        },
        "verdict": {
            "value": "DIVERGED" if diverged else "PARITY",
            "exit_code": 1 if diverged else 0,
            "reason": (
                f"{len(failing)} of {len(findings)} seams are over their gate, beginning early in the text model."
                if diverged
                else f"All {len(findings)} expected seams were compared and are within their gates."
            ),
            "first_divergence": failing[0] if diverged else None,
            "seams_expected": len(findings),
            "seams_compared": compared,
            "rows_compared": sum(finding["rows"] for finding in findings),
            "not_compared": len(findings) - compared,
        },
        "findings": findings,
        "logits": {
            "kl_max": 0.83 if diverged else 4.1e-13,
            "kl_row": "batch 0, token 203 (text)",
            "top1_agree": 287 if diverged else 446,
            "top1_total": 446,
        },
        "pictures": [_picture(0, rng=rng, diverged=diverged), _picture(1, rng=rng, diverged=diverged)],
        "blind_spots": [
            {"id": "rope-freqs-in-bf16", "title": "angles in bfloat16", "why": "needs a long prompt"},
            {"id": "video-token-mask-omitted", "title": "videos are ignored", "why": "needs a video"},
        ],
        "cost": {
            "seconds": 42.0,
            "ratio": 1.12,
            "forwards": {"passes": 2, "count": 2 * (decode_steps + 1), "seconds": 37.5},
            "parts": [
                {"what": what, "seconds": seconds}
                for what, seconds in [("imports", 1.2), ("loading", 0.4), ("forwards alone", 37.5), ("all else", 2.9)]
            ],
            "passes": [
                {"title": "eager, true float64", "seconds": 21.5, "alone": 20.0},
                {"title": "port, each part isolated", "seconds": 18.4, "alone": 17.5},
            ],
            "peak_bytes": 9 * 2**30,
            "model_bytes": 8 * 2**30,
            "kept": None,
        },
        "performance": {
            "note": "Median of 7 runs after 2 for warming up; one process at a time, 2 threads.",
            "rows": [
                _timing("vision", 0.412, 0.431, None),
                _timing("prefill", 0.187, 0.176, 430 / 0.187),
                _timing("decode", 0.0061, 0.0093, 2 / 0.0061),
            ],
        },
    }


def suite_document(*, diverged: bool = True, links: bool = False) -> Document:
    """A suite of three phases with 28 cases."""
    rng = np.random.default_rng(4)
    titles = {1: "base model and vision pipeline", 2: "batching, caches and decoding", 3: "video and long context"}
    counts = {1: 12, 2: 9, 3: 7}
    listed = "text-only photo drawing two-pictures odd-size batch-3-left bf16 chunked decode-8 tall wide tied"
    pieces = listed.split()
    cases: list[Document] = []
    for phase, count in counts.items():
        for number in range(count):
            name = f"p{phase}-{pieces[number]}"
            bad = diverged and name in ("p2-batch-3-left", "p2-two-pictures")
            lost = diverged and name == "p3-odd-size"
            ratio = 34.2 * (number + 1) if bad else float(np.clip(np.exp(rng.normal(-0.9, 0.3)), 0.1, 0.97))
            verdict = "DIVERGED" if bad else "INCOMPLETE" if lost else "PARITY"
            first = {"seam": "text.layers.1.deepstack", "step": "prefill"} if bad else None
            cases.append(
                {
                    "name": name,
                    "title": f"{pieces[number].replace('-', ' ')}, phase {phase}",
                    "phase": phase,
                    "verdict": verdict,
                    "exit_code": {"PARITY": 0, "DIVERGED": 1, "INCOMPLETE": 3}[verdict],
                    "reason": {
                        "PARITY": "every expected seam is within its gate",
                        "DIVERGED": "212 of 604 seams are over their gate",
                        "INCOMPLETE": "4 of 604 expected seams were not compared",
                    }[verdict],
                    "seams_compared": 600 if lost else 604,
                    "seams_expected": 604,
                    "rows_compared": 251_884,
                    "not_compared": 4 if lost else 0,
                    "worst": {
                        "seam": "text.layers.6.attn.out",
                        "step": "decode 3",
                        "ratio": ratio,
                        "figure": ratio * 9e-7,
                        "gate": 9e-7,
                        "row": "batch 0, token 17 (image)",
                    },
                    "first_divergence": first,
                    "seconds": float(rng.uniform(1.5, 9)),
                    "report": f"cases/{name}/report.html" if links else None,
                }
            )
    cases[1]["generated"] = [{"row": 0, "token_ids": [32, 5220, 13], "text": "A woman."}]
    verdicts = {1: "PARITY", 2: "DIVERGED" if diverged else "PARITY", 3: "INCOMPLETE" if diverged else "PARITY"}
    reasons = {"PARITY": "all cases pass", "DIVERGED": "2 cases diverged", "INCOMPLETE": "1 case is incomplete"}
    return {
        "schema_version": "2.0",
        "kind": "suite",
        "environment": environment() | {"command": "parity signoff --out parity-reports"},
        "phases": [
            {
                "phase": phase,
                "title": titles[phase],
                "verdict": verdicts[phase],
                "cases": counts[phase],
                "ran": counts[phase],
                "reason": reasons[verdicts[phase]],
            }
            for phase in titles
        ],
        "cases": cases,
        "totals": {
            "cases": 28,
            "ran": 28,
            "seams_compared": sum(case["seams_compared"] for case in cases),
            "rows_compared": 28 * 251_884,
            "not_compared": 4 if diverged else 0,
            "forwards": 28 * 9 * 6,
            "seconds": 151.2,
        },
        "made_with": {
            "code": "c" * 64,
            "versions": {"torch": "2.14.1"},
            "dtype": "float32",
            "checkpoints": {"tiny": "a" * 64},
        },
        "selected": [case["name"] for case in cases],
        "shard": None,
        "reused": [],
        "verdict": {
            "value": "DIVERGED" if diverged else "PARITY",
            "exit_code": 1 if diverged else 0,
            "reason": "2 cases diverged and 1 is incomplete; phase 1 stands."
            if diverged
            else "All 28 cases are in parity.",
        },
    }


def write_pictures(folder: Path) -> None:
    """The two pictures of the sample runs: a photograph and a drawing."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        photo.convert("RGB").resize((512, 608)).save(folder / "pictures" / "image-0.png")
    drawing = Image.new("RGB", (384, 256), "white")
    pen = ImageDraw.Draw(drawing)
    for number, colour in enumerate(("#d1495b", "#00798c", "#edae49")):
        pen.ellipse((40 + 100 * number, 60, 130 + 100 * number, 150), fill=colour)
    pen.line((30, 210, 350, 200), fill="black", width=5)
    drawing.save(folder / "pictures" / "image-1.png")


def _prompt(question: str) -> str:
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    return f"<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n"


def _picture(number: int, *, rng: np.random.Generator, diverged: bool) -> Document:
    high, wide = GRIDS[number]
    gate = 1.1e-6
    errors = gate * 0.3 * np.exp(rng.normal(0, 0.5, (high, wide)))
    if diverged:
        row, column = BAD_PATCH[number]
        away = np.hypot(*np.meshgrid(np.arange(high) - row, np.arange(wide) - column, indexing="ij"))
        errors += gate * 60 * np.exp(-((away / 1.8) ** 2))
    return {
        "title": ("image 1 of row 0 (grace_hopper.jpg)", "image 1 of row 1 (drawing)")[number],
        "kind": "image",
        "file": f"pictures/image-{number}.png",
        "grid": [high, wide],
        "seam": "vision.merger",
        "errors": [[float(f"{value:.4g}") for value in line] for line in np.minimum(errors, 10)],
        "gate": gate,
    }


def _timing(what: str, subject: float, reference: float, rate: float | None) -> Document:
    def spread(median: float, peak: int) -> Document:
        return {"median": median, "min": median * 0.96, "max": median * 1.11, "runs": 7, "peak_bytes": peak}

    return {
        "what": what,
        "unit": "s",
        "subject": spread(subject, 412_000_000),
        "reference": spread(reference, 455_500_000),
        "ratio": subject / reference,
        "per_second": rate and {"subject": rate, "reference": rate * subject / reference, "unit": "tokens/s"},
    }


def main(out: Path) -> None:
    """Write a PARITY run, a DIVERGED run and a suite that links to them."""
    from reports import write_report

    for name, diverged in (("parity", False), ("diverged", True)):
        write_pictures(out / name)
        write_report(run_document(diverged=diverged), out / name)
    suite = suite_document(links=True)
    for case in suite["cases"]:
        case["report"] = None if case["verdict"] == "INCOMPLETE" else f"cases/{case['name']}/report.html"
        if case["report"]:
            folder = out / "suite" / "cases" / case["name"]
            source = out / ("diverged" if case["verdict"] == "DIVERGED" else "parity")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "report.html", folder / "report.html")
    write_report(suite, out / "suite")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
