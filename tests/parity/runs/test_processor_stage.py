"""The processor stage: the port's processor is at parity, and faults are found at the right seam."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parity.cases.case import TINY, Case, Row
from parity.cases.files import as_file, write_encoded
from parity.cases.media import FORMATS, FURTHER_FORMATS, Clip, Encoded, Noise, Photo, PictureFile, VideoFile
from parity.cases.media_batch import MediaBatch
from parity.cases.standard import standard_suite
from parity.core.errors import ParityError
from parity.core.folder import FolderTrace, check_folder
from parity.core.verdict import Verdict, judge
from parity.diagnosis.blind_spots import blind_spots
from parity.engines.base import Sink
from parity.engines.port import PortProcessor
from parity.runs.case_run import run_case
from parity.runs.loader import Loader
from parity.runs.stages.processor_stage import ProcessorStage
from parity.runs.stages.stage import StageResult, judge_stage
from parity.runs.store import TraceStore
from parity.seams.processor import expected_processor_seams, processor_specs
from reference.media import PicturePath, VideoPath

ROWS: tuple[Row, ...] = (
    ("Two ", Noise(70, 90), " and ", Noise(208, 80, seed=2)),
    ("Moves? ", Clip(9, 64, 96, fps=3.0)),
)


def case(name: str, rows: tuple[Row, ...]) -> Case:
    """A case in which the processor alone is judged."""
    return Case(name, "made for a test", 1, TINY, rows, stages=("processor",))


@pytest.fixture(scope="module")
def stage(loader: Loader) -> ProcessorStage:
    return loader.inputs(case("here", ROWS), loader.checkpoint(TINY)).processed


@pytest.fixture(scope="module")
def correct(loader: Loader) -> PortProcessor:
    return loader.port_processor(loader.checkpoint(TINY))


def test_the_port_is_at_parity_bit_for_bit(stage: ProcessorStage, correct: PortProcessor) -> None:
    found = judge_stage(stage, correct)
    assert judge(found.findings).verdict is Verdict.PARITY
    assert len(found.findings) == 2 * 3 + 5 + 4
    assert all(finding.mismatches == 0 for finding in found.findings)
    assert all(finding.isolated is not None for finding in found.findings)


@dataclass
class Wrong:
    """The correct processor with one value changed; a seam ``dropped``, or an error raised there."""

    correct: PortProcessor
    seam: str
    by: float = 0.0
    error: Exception | None = None
    dropped: bool = False
    name: str = "wrong"
    detail: str = ""
    dtype: str = "float32"

    def process(self, batch: MediaBatch, sink: Sink) -> None:
        def altered(name: str, value: torch.Tensor) -> torch.Tensor | None:
            if name == self.seam and self.error is not None:
                raise self.error
            if name == self.seam and self.dropped:
                return None
            if name == self.seam:
                value = value + torch.tensor(self.by).to(value.dtype)
            back = sink(name, value)
            return value if back is None else back

        self.correct.process(batch, altered)


def origin(found: StageResult, name: str) -> str:
    return next(finding.origin for finding in found.findings if finding.entry.key.name == name)


@pytest.mark.parametrize(
    ("seam", "by"),
    [
        ("processor.images.1.decoded", 1),
        ("processor.images.1.resized", 2),
        ("processor.images.0.patches", 2.5 / 127.5),
        ("processor.videos.0.frame_indices", 1),
        ("processor.videos.0.timestamps", 0.05),
        ("processor.videos.0.resized", 2),
        ("processor.image_grid_thw", 2),
        ("processor.input_ids", 1),
    ],
)
def test_a_wrong_value_is_found_where_it_is_made(
    stage: ProcessorStage, correct: PortProcessor, seam: str, by: float
) -> None:
    found = judge_stage(stage, Wrong(correct, seam, by=by))
    verdict = judge(found.findings, subject_error=found.error)
    assert verdict.verdict is Verdict.DIVERGED
    assert verdict.first_divergence is not None
    assert found.findings[verdict.first_divergence].entry.key.name == seam
    assert origin(found, seam) == "starts here"


def test_what_follows_from_a_wrong_value_comes_from_upstream(stage: ProcessorStage, correct: PortProcessor) -> None:
    found = judge_stage(stage, Wrong(correct, "processor.images.1.decoded", by=40))
    assert origin(found, "processor.images.1.resized") == "comes from upstream"
    assert origin(found, "processor.images.1.patches") == "comes from upstream"


def test_a_single_step_passes_and_is_counted(stage: ProcessorStage, correct: PortProcessor) -> None:
    class OneStep(PortProcessor):
        def process(self, batch: MediaBatch, sink: Sink) -> None:
            def nudged(name: str, value: torch.Tensor) -> torch.Tensor | None:
                if name.endswith("resized"):
                    value = value.clone()
                    value.view(-1)[:2] = torch.where(
                        value.view(-1)[:2] > 9, value.view(-1)[:2] - 1, 1 + value.view(-1)[:2]
                    )
                return sink(name, value)

            super().process(batch, nudged)

    found = judge_stage(stage, OneStep(correct.processor))
    assert judge(found.findings).verdict is Verdict.PARITY
    shares = [f.exact_share for f in found.findings if f.entry.key.name.endswith("resized")]
    assert all(share is not None and 0.99 < share < 1 for share in shares)


def test_a_processor_that_raises_or_is_silent_is_no_parity(stage: ProcessorStage, correct: PortProcessor) -> None:
    seam = "processor.videos.0.resized"
    raised = judge_stage(stage, Wrong(correct, seam, error=RuntimeError("no kernel")))
    assert raised.error == "RuntimeError: no kernel"
    assert judge(raised.findings, subject_error=raised.error).verdict is Verdict.DIVERGED
    silent = judge_stage(stage, Wrong(correct, seam, dropped=True))
    assert judge(silent.findings).verdict is Verdict.INCOMPLETE


def test_every_kind_of_seam_is_expected_somewhere() -> None:
    expected = expected_processor_seams(1, 1, image_step=0.01, video_step=0.01)
    assert {item.spec.name for item in expected} == {spec.name for spec in processor_specs()}
    assert not expected_processor_seams(0, 0, image_step=1, video_step=1)[0].key.name.startswith("processor.image")


def test_both_traces_are_kept_and_sound(loader: Loader, correct: PortProcessor, tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    kept = loader.inputs(case("kept", ROWS), loader.checkpoint(TINY), store=store).processed
    judge_stage(kept, correct, store=store)
    for name in ("reference-processor", "subject-processor"):
        assert check_folder(tmp_path / name) == []
    first, second = (FolderTrace(tmp_path / f"{name}-processor") for name in ("reference", "subject"))
    assert list(first.entries()) == list(second.entries())


def test_the_models_run_on_what_the_reference_gave(stage: ProcessorStage) -> None:
    assert set(stage.tensors) == {
        *("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
    }


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_is_what_it_says(form: str, tmp_path: Path) -> None:
    image = Photo((70, 90)).load()
    with Image.open(write_encoded(image, form, tmp_path / "picture")) as found:
        mode, orientation = found.mode, found.getexif().get(0x0112)
    wanted = {"grey": "L", "alpha": "RGBA", "palette": "P", "cmyk": "CMYK", "grey16": "I;16"}.get(form, "RGB")
    assert mode == wanted
    assert orientation == (6 if form == "turned" else None)


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture form"):
        write_encoded(Photo((70, 90)).load(), "vector", tmp_path / "picture")


def test_files_stay_where_they_are_and_the_rest_is_written(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "own.png")
    own = as_file(PictureFile(tmp_path / "own.png"), tmp_path, "a")
    assert own == PicturePath(tmp_path / "own.png")
    assert as_file("text", tmp_path, "b") == "text"
    clip = as_file(Clip(4, 64, 96), tmp_path, "c")
    assert isinstance(clip, VideoPath)
    header = VideoFile(clip.path).probe()
    assert (header.frames, header.width, header.height, header.fps) == (4, 64, 96, 4.0)
    photo = as_file(Photo(), tmp_path, "d")
    assert isinstance(photo, PicturePath)
    assert photo.path.suffix == ".jpg"
    noise = as_file(Noise(30, 40), tmp_path, "e")
    assert isinstance(noise, PicturePath)
    assert np.array_equal(np.asarray(Image.open(noise.path)), np.asarray(Noise(30, 40).load()))


def test_a_video_whose_frames_would_not_fit_is_refused(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.runs.fit.MAX_FRAME_BYTES", 1000)
    with pytest.raises(ParityError, match="frames sampled from clip"):
        loader.inputs(case("large", ROWS[1:]), loader.checkpoint(TINY))


def test_a_checkpoint_may_keep_a_number_of_frames(loader: Loader, tmp_path: Path) -> None:
    """``num_frames`` in place of ``fps``."""
    folder = Path(shutil.copytree(loader.checkpoint(TINY), tmp_path / "counted"))
    path = folder / "video_preprocessor_config.json"
    own = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**own, "fps": None, "num_frames": 4}), encoding="utf-8")
    rows = (("So? ", Clip(9, 64, 96)),)
    counted = loader.inputs(case("n", rows), folder).processed
    assert counted.tensors["video_grid_thw"].tolist() == [[2, 6, 4]]
    found = judge_stage(counted, loader.port_processor(folder))
    assert judge(found.findings, subject_error=found.error).verdict is Verdict.PARITY, found.error


def test_the_suite_has_every_form_and_a_sampled_clip() -> None:
    parts = [part for case in standard_suite() for row in case.rows for part in row]
    assert {part.form for part in parts if isinstance(part, Encoded)} == {*FORMATS, *FURTHER_FORMATS}
    assert any(isinstance(part, Clip) and part.fps > 10 for part in parts)


def test_the_report_says_which_mistakes_of_a_processor_it_cannot_see(loader: Loader) -> None:
    run = run_case(Case("plain", "", 1, TINY, (("Hi ", Noise(64, 96)),)), loader, dtype="bfloat16")
    missed = {item["id"]: item["why"] for item in blind_spots(run)}
    assert "resized" in missed["bilinear-instead-of-bicubic"]
    assert "video" in missed["timestamp-half-a-frame"]
    assert "patches-raster-order" not in missed


def test_a_stage_that_was_not_judged_is_a_blind_spot(loader: Loader) -> None:
    run = run_case(case("alone", (("Hi ", Noise(64, 96)),)), loader, dtype="float32")
    missed = {item["id"]: item["why"] for item in blind_spots(run)}
    assert missed["merger-gelu-tanh"] == "the model stage was not judged"
    assert "patches-raster-order" not in missed
