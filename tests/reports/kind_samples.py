"""Small valid documents of the kinds with simple pages, and of the kill matrix."""

from __future__ import annotations

from typing import Any

from tests.reports.report_samples import environment, run_document

Document = dict[str, Any]


def mutants_document() -> Document:
    """Five mutants on two cases: caught at the seam, caught elsewhere, survived, not exposed, invisible."""
    outcomes = {
        "caught-here": ("at seam", "at seam"),
        "caught-elsewhere": ("elsewhere", "not applicable"),
        "survivor": ("survived", "survived"),
        "not-exposed": ("not applicable", "not applicable"),
        "too-small": ("survived", "not applicable"),
    }
    fates = dict(zip(outcomes, ("caught", "caught", "survived", "not exposed", "invisible"), strict=True))
    stages = dict(zip(outcomes, ("processor", "weights", "model", "model", "model"), strict=True))
    mutants = []
    for name, states in outcomes.items():
        found = {
            case: {
                "state": state,
                "expected": state in ("at seam", "elsewhere") or (name, case) == ("survivor", "photo"),
                "seam": "vision.merger" if state in ("at seam", "elsewhere") else None,
                "step": "prefill" if state in ("at seam", "elsewhere") else None,
                "worst": 0.3 if state == "survived" else None,
                "floors": None,
                "identical": False,
                "error": None,
            }
            for case, state in zip(("photo", "text"), states, strict=True)
        }
        caught = [case for case, outcome in found.items() if outcome["state"] in ("at seam", "elsewhere")]
        mutants.append(
            {
                "id": name,
                "title": f"the mistake {name}",
                "component": "vision",
                "stage": stages[name],
                "source": "made up",
                "real": name == "survivor",
                "seam": "vision.merger",
                "step": "prefill",
                "dtypes": ["float32"],
                "invisible": "needs bfloat16" if name == "too-small" else "",
                "fate": fates[name],
                "localised": name == "caught-here",
                "first_seam": "vision.merger" if caught else None,
                "first_step": "prefill" if caught else None,
                "caught_by": caught,
                "missed_by": ["photo"] if name == "survivor" else [],
                "outcomes": found,
            }
        )
    return {
        "schema_version": "2.0",
        "kind": "mutants",
        "environment": environment(),
        "dtype": "float32",
        "gate": {"rule": "every row: error <= 6 x floor + 1 ulp", "m": 6.0, "ulps": 1.0},
        "totals": {
            "mutants": 5,
            "real": 1,
            "caught": 2,
            "survived": 1,
            "invisible": 1,
            "not_exposed": 1,
            "kill_rate": 0.5,
            "localised": 1,
            "localisation_rate": 0.5,
            "proven": False,
            "seconds": 91.1,
        },
        "cover": {"cases": ["photo"], "forwards": 5},
        "cases": [
            {"name": "photo", "title": "a photo", "forwards": 5},
            {"name": "text", "title": "text alone", "forwards": 3},
        ],
        "broken": {"video": "the port without a mistake does not pass video"},
        "mutants": mutants,
        "not_planted": {"moe-router": "the port builds dense models only"},
        "reused": [],
    }


def exam_document() -> Document:
    """Three engines; the third was not asked about clips, and gives one wrong answer."""
    full = {"clip direction": {"questions": 2, "accuracy": 1.0}, "picture colour": {"questions": 4, "accuracy": 1.0}}
    sound = {"asked": 6, "not_run": 0, "why_not_run": "", "right": 6, "accuracy": 1.0, "by_kind": full}
    other = {
        "engine": "mistral.rs 0.9.5",
        "asked": 4,
        "not_run": 2,
        "why_not_run": "it has no ffmpeg",
        "right": 3,
        "accuracy": 0.75,
        "by_kind": {"picture colour": {"questions": 4, "accuracy": 0.75}},
    }
    answers = {"reference": "red", "port": "red", "mistral.rs 0.9.5": "green"}
    return {
        "schema_version": "2.0",
        "kind": "exam",
        "environment": environment(),
        "clip_form": "gif",
        "questions": 6,
        "engines": [{"engine": "reference", **sound}, {"engine": "port", **sound}, other],
        "disagreements": [
            {"number": 3, "kind": "picture colour", "question": "Which colour?", "right": "red", "answers": answers}
        ],
        "verdict": _verdict("PARITY", "reference and port gave the same answers, 100 % right"),
    }


def calibration_document() -> Document:
    worst = {"case": "photo", "run": "eager", "seam": "vision.merger[0]", "rows": 1216}
    return {
        "schema_version": "2.0",
        "kind": "calibration",
        "environment": {name: environment()[name] for name in ("created", "python", "threads", "packages")},
        "dtype": "float32",
        "cases": ["text", "photo"],
        "seeds": [0],
        "ulps": 1.0,
        "runs": 12,
        "rows": 45678,
        "engines": [
            {
                "run": run,
                "runs": 6,
                "smallest_m": {"accumulated": 2.69, "isolated": 1.08, "isolated_attention": 2.5},
            }
            for run in ("eager", "port, numpy")
        ],
        "comparisons": {
            "accumulated": {
                "m": 6.0,
                "smallest_m": 2.69,
                "false_alarms": 0,
                "worst": [{**worst, "isolation": "accumulated", "m": 2.69}],
            },
            "isolated": {
                "m": 2.0,
                "smallest_m": 1.08,
                "false_alarms": 0,
                "worst": [{**worst, "isolation": "isolated", "m": 1.08}],
            },
            "isolated_attention": {
                "m": 8.0,
                "smallest_m": 2.5,
                "false_alarms": 0,
                "worst": [{**worst, "isolation": "isolated_attention", "m": 2.5}],
            },
        },
    }


def processor_document() -> Document:
    found = _judged("inputs")
    return {
        "schema_version": "2.0",
        "kind": "processor",
        "environment": environment(),
        "files": ["holiday.jpg", "clip.mp4"],
        **found,
        "throughput": [
            {
                "title": "holiday.jpg",
                "rounds": 5,
                "port_seconds": 0.0123,
                "reference_seconds": 0.0341,
                "ratio": 2.77,
            }
        ],
        "threads": 2,
    }


def comparison_document() -> Document:
    run = run_document(diverged=True, decode_steps=1)
    return {
        "schema_version": "2.0",
        "kind": "comparison",
        "environment": environment(),
        "subject": {"name": "candle", "detail": "traces/candle", "dtype": "float32"},
        "reference": {"name": "transformers", "detail": "traces/reference", "dtype": "float64"},
        "floors": ["traces/floor-1"],
        "gate": {"rule": "every row: error <= 6 x floor + 1 ulp", "m": 6.0, "ulps": 1.0},
        "verdict": run["verdict"],
        "findings": run["findings"],
    }


def judgement_document() -> Document:
    """A trace that diverged, one in parity, one of another checkpoint, and a stage without a trace."""
    run, processor = run_document(), _judged("inputs")
    shared = {"title": "a title", "floor_runs": ["eager", "sdpa"], "checkpoint": {"subject": None, "bundle": "0" * 64}}
    empty = {"first_divergence": None, "seams_expected": 6, "seams_compared": 0, "rows_compared": 0, "not_compared": 6}
    lines = [
        ("photo", "model", run["subject"], run["verdict"], run["findings"], "cases/photo-model-float32/report.html"),
        ("photo", "processor", run["subject"], processor["verdict"], processor["findings"], None),
        ("text", "model", run["subject"], _verdict("INVALID", "another checkpoint") | empty, [], None),
        ("text", "processor", None, _verdict("INCOMPLETE", "there is no trace") | empty, [], None),
    ]
    fields = ("name", "stage", "subject", "verdict", "findings", "report")
    return {
        "schema_version": "2.0",
        "kind": "judgement",
        "environment": environment(),
        "bundle": {"path": "golden", "sha256": "ab" * 32, "pinned": False, "versions": {"torch": "2.6.0"}},
        "gate": {"rule": "every row: error <= 6 x floor + 1 ulp", "m": 6.0, "ulps": 1.0},
        "cases": [{**dict(zip(fields, line, strict=True)), **shared} for line in lines],
        "verdict": _verdict("INVALID", "1 of 4 stages: text, model: another checkpoint"),
    }


def tokens_document() -> Document:
    return {
        "schema_version": "2.0",
        "kind": "tokens",
        "environment": environment(),
        "engine": "mistral.rs 0.9.5",
        "prompt": "What is it?",
        "prompt_tokens": {"port": 23, "engine": 23},
        "tokens": {"port": [64, 13001, 7, 8], "engine": [64, 13002, 7]},
        "largest_logprob_difference": None,
        "verdict": _verdict("DIVERGED", "port and mistral.rs give different tokens"),
    }


def _explanation(name: str, *, explained: int, stopped: str | None) -> Document:
    mistake = {"id": name, "title": "a mistake", "component": "merger", "source": "an engine", "real": True}
    return {
        "mistakes": [mistake],
        "ratio_before": 47.9,
        "ratio_after": 0.08,
        "figure_before": 2.2e-4,
        "figure_after": 8.3e-7,
        "worst_after": 0.15 if stopped is None else None,
        "rows_failed": 12,
        "rows_explained": explained,
        "share": explained / 12,
        "stopped": stopped,
    }


def diagnosis_document() -> Document:
    """A trace that is explained, one that is not and has a nearest mistake, and a sound one."""
    run = run_document()
    symptoms = {
        "seam": "vision.deepstack.0",
        "call": 0,
        "step": "prefill, images",
        "after": "vision.blocks.5.out[0]",
        "not_given": 13,
        "components": ["merger", "deepstack"],
        "kinds": ["image"],
        "sound_kinds": ["text"],
        "steps": ["prefill, images", "prefill"],
        "rows_failed": 12,
        "rows": 99,
        "worst_row": "merged 3 (image)",
    }
    cost = {"runs": 1.5, "runs_begun": 4, "passes": 7}
    shared = {"stage": "model", "subject": run["subject"], "verdict": run["verdict"], "tried": ["a", "b"], "cost": cost}
    cause = _explanation("a", explained=12, stopped=None)
    near = _explanation("b", explained=5, stopped="text.norm[0]")
    return {
        "schema_version": "2.0",
        "kind": "diagnosis",
        "environment": environment(),
        "bundle": {"path": "golden", "sha256": "ab" * 32},
        "subject": "my-engine",
        "hypotheses": 267,
        "conclusion": {"status": "unexplained", "text": "explained by a; text: none of 267 known mistakes explains it"},
        "traces": [
            {"case": "photo", "symptoms": symptoms, "explanations": [cause], "nearest": None, **shared},
            {"case": "text", "symptoms": symptoms, "explanations": [], "nearest": near, **shared},
            {"case": "sound", "symptoms": None, "explanations": [], "nearest": None, **shared},
        ],
        "bug_report": "my-engine differs from transformers.",
        "totals": {"runs": 4.5, "runs_begun": 12, "passes": 21, "seconds": 3.2},
        "power": [{"case": "photo", "stage": "model", "text": "1 of 2 shown", "shown": ["a"], "hidden": ["b"]}],
        "next_inputs": [
            {
                "case": "text",
                "hypotheses": [["a"], ["b", "c"]],
                "separation": 31.5,
                "row": 0,
                "step": 1,
                "left": [["a"]],
                "text": "text tells a and b with c apart",
            }
        ],
        "verdict": _verdict("DIVERGED", "2 of 3 stages: photo, model: first divergence at vision.deepstack.0"),
    }


def blackbox_document() -> Document:
    place = {"row": 0, "step": 0, "token": 7, "expected": 7, "margin": 1.5, "gate": 1e-4, "logprobs": 20}
    return {
        "schema_version": "2.0",
        "kind": "blackbox",
        "environment": environment(),
        "bundle": {"path": "golden", "sha256": "ab" * 32},
        "subject": "out.jsonl",
        "case": "photo",
        "dtype": "float32",
        "left_out": 1,
        "places": [
            {**place, "figure": 2e-6, "passed": True},
            {**place, "step": 1, "token": 8, "figure": None, "logprobs": 0, "passed": False},
        ],
        "verdict": _verdict("DIVERGED", "first divergence at row 0, step 1"),
    }


def activations_document() -> Document:
    return {
        "schema_version": "2.0",
        "kind": "activations",
        "environment": environment(),
        "models": {
            "seeded": {"logits_entropy": 6.2, "vision_stream": None},
            "trained": {"logits_entropy": 0.31, "vision_stream": 22.5},
        },
    }


def signoff_document() -> Document:
    """A milestone with a waived failure, one refused, one incomplete; of a checkout with a change."""
    worst = {"figure": 1e-6, "gate": 4e-6, "ratio": 0.25, "at": "text.norm (prefill)", "comparison": "isolated"}
    waiver = {"phase": 1, "item": "case:photo:float32", "reason": "another resize", "link": "issue 12"}
    items = {
        1: [("case:text:float32", "PARITY", False), ("case:photo:float32", "DIVERGED", True)],
        2: [("kill-matrix:a+2-more", "DIVERGED", False), ("case:tied:float32", "PARITY", False)],
        3: [("mistakes:3", "INCOMPLETE", False)],
    }
    verdicts = {1: ("SIGNED OFF", 0), 2: ("REFUSED", 1), 3: ("INCOMPLETE", 3)}
    return {
        "schema_version": "2.0",
        "kind": "signoff",
        "environment": environment(),
        "subject": {
            "engine": "my-port",
            "evidence": "run",
            "bundle": None,
            "commit": "f" * 40,
            "clean": False,
            "changes": [" M port/text.py"],
            "code": "c" * 64,
        },
        "milestones_file": {"name": "standard", "sha256": "d" * 64, "phases": 5},
        "checkpoints": {"tiny": "a" * 64},
        "power": {
            "known_mistakes": {"planted": 4, "caught": 3, "at_their_seam": 2, "invisible": 1},
            "correct_runs": [{"dtype": "float32", "runs": 600, "rows": 7000, "largest_need": 0.75, "false_alarms": 0}],
            "floors": {"fewest_runs": 4, "most_runs": 4, "values": 900, "typical_spread": 1.8, "largest_spread": 32.0},
        },
        "versions": {"torch": "2.6.0"},
        "verdict": {"value": "REFUSED", "label": "REFUSED", "exit_code": 1, "reason": "1 of 3 milestones refused"},
        "milestones": [
            {
                "phase": phase,
                "title": f"the milestone {phase}",
                "was": "what it was",
                "commit": "530463af1" if phase == 1 else None,
                "verdict": verdicts[phase][0],
                "label": "SIGNED OFF with 1 waiver" if phase == 1 else verdicts[phase][0],
                "exit_code": verdicts[phase][1],
                "reason": "why it is so",
                "requires_less": "requires 2 of the standard's 9 cases" if phase == 2 else "",
                "waivers": [waiver | {"expires": "2027-01-31"}] if phase == 1 else [],
                "items": [
                    {
                        "id": name,
                        "kind": "case" if name.startswith("case") else "check",
                        "dtype": "float32",
                        "verdict": verdict,
                        "reason": "why",
                        "waived": waived,
                        "compared": 374,
                        "expected": 374,
                        "rows": 9000,
                        "worst": worst | {"row": None} if name.startswith("case") else None,
                        "floor_runs": ["eager", "sdpa"],
                        "seconds": 3.25 if verdict == "PARITY" else None,
                    }
                    for name, verdict, waived in found
                ],
            }
            for phase, found in items.items()
        ],
        "seams": [
            _seam("processor.input_ids", "processor", gate_kind="exact"),
            _seam("vision.patch_embed", "vision", ratio=0.2),
            _seam("vision.blocks.0.attn.out", "vision", ratio=0.4),
            _seam("vision.deepstack.0", "vision", ratio=0.6, comparison="isolated"),
            _seam("vision.merger", "vision", ratio=0.9),
            _seam("text.layers.0.mlp.out", "text", ratio=7.5, status="diverged", failed=2, starts_here=1),
            _seam("text.layers.0.attn.k_cache", "cache", ratio=0.1),
            _seam("text.layers.0.deepstack", "text", status="missing", failed=1),
            _seam("text.norm", "text", ratio=124000.0, status="diverged", failed=1),
            _seam("logits", "output", ratio=12345.0, status="diverged", failed=1),
            _seam("generation.tokens", "generation", gate_kind="exact"),
            _seam("model.lm_head.weight", "weights", gate_kind="exact"),
        ],
        "tests": [
            _test("relations", "rows-are-alone", "kept", 1e-14, 1e-10),
            _test("kill-matrix:a+2-more", "a-mutant", "survived", 1, 0, passed=False),
            _test("performance:decode", "decode, one row", "kept", 0.8, 1.1),
        ],
        "pictures": [],
        "run": {"seconds": 44.5, "reused": 2, "stale": {"case:text:float32": "the code has changed"}},
        "record": "signoff.json",
        "digest": "e" * 64,
    }


def difference_document() -> Document:
    """A milestone that got worse, a discrete figure that differs, a margin that was lost."""
    side = {"record": "a/signoff.json", "created": "2027-01-10T00:00:00Z", "commit": "f" * 40, "digest": "e" * 64}
    item = {"item": "case:text:float32", "ratio_before": 0.4, "ratio_after": 7.5, "reason": "it diverged"}
    return {
        "schema_version": "2.0",
        "kind": "difference",
        "environment": environment(),
        "before": side | {"label": "SIGNED OFF"},
        "after": side | {"label": "REFUSED"},
        "verdict": _verdict("DIVERGED", "1 of 1 milestones changed"),
        "milestones": [
            {"phase": 1, "title": "text", "before": "SIGNED OFF", "after": "REFUSED", "reason": "it diverged"}
        ],
        "items": [item | {"before": "PARITY", "after": "DIVERGED"}],
        "discrete": [{"item": "case:text:float32", "place": "logits[0]", "before": "ok", "after": None}],
        "settings": [{"name": "version of torch", "before": "2.5", "after": "2.6"}],
        "seams": [{"seam": "logits", "before": 0.4, "after": 7.5}, {"seam": "new", "before": None, "after": 0.1}],
    }


def history_document() -> Document:
    """Three runs; one margin shrank in the last, one series is absent at first."""
    run = {"kind": "sign-off", "label": "SIGNED OFF", "commit": "f" * 40, "judged": "c" * 64}
    line = {"noise": 0.02, "noise_from": "same subject", "shrank": None, "before": None}
    return {
        "schema_version": "2.0",
        "kind": "history",
        "environment": environment(),
        "runs": [run | {"folder": f"run-{day}", "created": f"2027-01-0{day}T00:00:00Z"} for day in (1, 2, 3)],
        "series": [
            line | {"name": "seam:text.norm", "ratios": [0.3, 0.31, 0.7], "shrank": 2, "before": 0.3},
            line | {"name": "case:photo:float32", "ratios": [None, 0.5, 0.5]},
        ],
        "first": {"run": 2, "series": ["seam:text.norm"]},
        "least_noise": 0.01,
        "skipped": [{"folder": "other", "why": "it is a run"}],
    }


def _seam(seam: str, group: str, **given: Any) -> Document:
    line: Document = {
        "seam": seam, "group": group, "gate_kind": "float", "status": "ok", "ratio": None, "figure": None, "gate": None,
        "comparison": "accumulated", "step": "prefill", "item": "case:text:float32", "values": 5, "failed": 0,
        "starts_here": 0,
    }  # fmt: skip
    return line | given


def _test(item: str, name: str, outcome: str, figure: float, gate: float, *, passed: bool = True) -> Document:
    return {
        "item": item, "name": name, "outcome": outcome, "figure": figure, "gate": gate, "note": "", "passed": passed
    }  # fmt: skip


def bench_document() -> Document:
    """Two works, of which one is slower than accepted, and a curve of two points."""

    def work(name: str, port: float, counts: Document | None) -> Document:
        return {
            "name": name,
            "title": f"the work {name}",
            "amount": 8,
            "unit": "tokens",
            "port": port,
            "reference": 0.08,
            "ratio": {"middle": 0.08 / port, "low": 0.07 / port, "high": 0.09 / port, "pairs": 2},
            "control": {"middle": 1.0, "low": 0.98, "high": 1.03, "pairs": 2},
            "noise": 0.03,
            "counts": counts,
            "expected": None if counts is None else 0.01,
            "of_limit": None if counts is None else 0.01 / port,
            "taps": None if counts is None else {"calls": 60, "seconds": 1e-5, "of_port": 1e-5 / port},
            "seconds": {"port": [port, port], "reference": [0.08, 0.08]},
        }

    counts = {"flops": 10**9, "bytes_read": 10**8, "calls": 230, "peak_bytes": 81992}
    return {
        "schema_version": "2.0",
        "kind": "bench",
        "environment": environment(),
        "machine": {
            "class": "x86_64; AVX2; 1 thread; fast kernels, compiled; float32",
            "instructions": "AVX2",
            "clock": "wall",
            "kernels": {"kernels": "fast", "compiled": "yes"},
        },
        "subject": {"name": "port", "detail": "version", "dtype": "float32"},
        "reference": {"name": "transformers", "detail": "version", "dtype": "float32"},
        "checkpoint": {"name": "trained", "sha256": "a" * 64, "parameters": 10, "bytes": 40},
        "limits": {"product_gflops": 120.5, "read_gbytes": 14.25},
        "confidence": 0.9,
        "works": [work("decode-1", 0.1, counts), work("load", 0.05, None)],
        "curves": [
            {"curve": "prefill", "at": at, "port": at / 100, "reference": at / 90, "expected": at / 200}
            for at in (16, 64)
        ],
        "memory": {"port": 2**20, "reference": 2**21},
        "beside": [
            {
                "engine": "mistral.rs 0.9.5",
                "name": "decode-1",
                "title": "decode of 8 tokens",
                "amount": 8,
                "unit": "tokens",
                "port": 0.1,
                "other": 0.2,
                "ratio": {"middle": 2.0, "low": 1.9, "high": 2.1, "pairs": 2},
                "seconds": {"port": [0.1, 0.1], "other": [0.2, 0.2]},
            }
        ],
        "time_to_verdict": {"case": "text", "seconds": 3.0, "forwards": 2.0, "passes": 11, "ratio": 1.5},
        "check": {"slower": ["decode-1: why"], "grown": []},
        "verdict": _verdict("DIVERGED", "slower: decode-1: why"),
    }


def _verdict(value: str, reason: str) -> Document:
    codes = {"PARITY": 0, "DIVERGED": 1, "INVALID": 2, "INCOMPLETE": 3}
    return {"value": value, "exit_code": codes[value], "reason": reason}


def _judged(group: str) -> Document:
    """The findings of one group of a run, numbered anew, and a verdict over them."""
    findings = [finding for finding in run_document(decode_steps=0)["findings"] if finding["group"] == group]
    for number, finding in enumerate(findings):
        finding["index"] = number
    verdict = _verdict("PARITY", f"all {len(findings)} values lie within their gates") | {
        "first_divergence": None,
        "seams_expected": len(findings),
        "seams_compared": len(findings),
        "rows_compared": sum(finding["rows"] for finding in findings),
        "not_compared": 0,
    }
    return {"verdict": verdict, "findings": findings}


SIMPLE = {
    "mutants": mutants_document,
    "exam": exam_document,
    "calibration": calibration_document,
    "processor": processor_document,
    "comparison": comparison_document,
    "judgement": judgement_document,
    "diagnosis": diagnosis_document,
    "blackbox": blackbox_document,
    "tokens": tokens_document,
    "activations": activations_document,
    "signoff": signoff_document,
    "difference": difference_document,
    "history": history_document,
    "bench": bench_document,
}
