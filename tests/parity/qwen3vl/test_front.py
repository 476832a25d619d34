"""From the files on: the port's processor is at parity, and a processor that is not is told where it goes wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parity.core.errors import ParityError
from parity.core.folder import FolderTrace, check_folder
from parity.core.verdict import Verdict, judge
from parity.qwen3vl.blind import blind_to
from parity.qwen3vl.cases import TINY, Row, standard_suite
from parity.qwen3vl.engines import Sink
from parity.qwen3vl.files import as_file, write_encoded
from parity.qwen3vl.front import Front, FrontResult, Material, PortFront, judge_front
from parity.qwen3vl.inputs import prepare_inputs
from parity.qwen3vl.media import FORMATS, Clip, Encoded, Noise, Photo, PictureFile, VideoFile
from parity.qwen3vl.processor_seams import expected_processor_seams, processor_specs
from parity.qwen3vl.store import TraceStore
from parity.qwen3vl.workbench import Workbench, read_config
from parity.qwen3vl.yardstick import measure_yardstick
from reference.processor import PicturePath, VideoPath

ROWS: tuple[Row, ...] = (
    ("Two ", Noise(70, 90), " and ", Noise(208, 80, seed=2)),
    ("Moves? ", Clip(9, 64, 96, fps=3.0)),
)


@pytest.fixture(scope="module")
def front(bench: Workbench) -> Front:
    folder = bench.checkpoint(TINY)
    return prepare_inputs("here", ROWS, processor=bench.processor(folder, "float32"), config=read_config(folder)).front


@pytest.fixture(scope="module")
def sound(bench: Workbench) -> PortFront:
    return bench.port_front(bench.checkpoint(TINY))


def test_the_port_is_at_parity_bit_for_bit(front: Front, sound: PortFront) -> None:
    found = judge_front(front, sound)
    assert judge(found.findings).verdict is Verdict.PARITY
    assert len(found.findings) == 2 * 3 + 5 + 4
    assert all(finding.mismatches == 0 for finding in found.findings)
    assert all(finding.isolated is not None for finding in found.findings)


@dataclass
class Wrong:
    """The sound processor with one value changed; a seam ``dropped``, or an error raised there."""

    sound: PortFront
    seam: str
    by: float = 0.0
    error: Exception | None = None
    dropped: bool = False
    name: str = "wrong"

    def trace(self, material: Material, sink: Sink) -> None:
        def altered(name: str, value: torch.Tensor) -> torch.Tensor | None:
            if name == self.seam and self.error is not None:
                raise self.error
            if name == self.seam and self.dropped:
                return None
            if name == self.seam:
                value = value + torch.tensor(self.by).to(value.dtype)
            back = sink(name, value)
            return value if back is None else back

        self.sound.trace(material, altered)


def reading(found: FrontResult, name: str) -> str:
    return next(finding.reading for finding in found.findings if finding.entry.key.name == name)


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
def test_a_wrong_value_is_found_where_it_is_made(front: Front, sound: PortFront, seam: str, by: float) -> None:
    found = judge_front(front, Wrong(sound, seam, by=by))
    verdict = judge(found.findings, subject_error=found.error)
    assert verdict.verdict is Verdict.DIVERGED
    assert verdict.first_divergence is not None
    assert found.findings[verdict.first_divergence].entry.key.name == seam
    assert reading(found, seam) == "starts here"


def test_what_follows_from_a_wrong_value_comes_from_upstream(front: Front, sound: PortFront) -> None:
    found = judge_front(front, Wrong(sound, "processor.images.1.decoded", by=40))
    assert reading(found, "processor.images.1.resized") == "comes from upstream"
    assert reading(found, "processor.images.1.patches") == "comes from upstream"


def test_a_single_step_passes_and_is_counted(front: Front, sound: PortFront) -> None:
    class OneStep(PortFront):
        def trace(self, material: Material, sink: Sink) -> None:
            def nudged(name: str, value: torch.Tensor) -> torch.Tensor | None:
                if name.endswith("resized"):
                    value = value.clone()
                    value.view(-1)[:2] = torch.where(
                        value.view(-1)[:2] > 9, value.view(-1)[:2] - 1, 1 + value.view(-1)[:2]
                    )
                return sink(name, value)

            super().trace(material, nudged)

    found = judge_front(front, OneStep(sound.processor))
    assert judge(found.findings).verdict is Verdict.PARITY
    shares = [f.exact_share for f in found.findings if f.entry.key.name.endswith("resized")]
    assert all(share is not None and 0.99 < share < 1 for share in shares)


def test_a_processor_that_raises_or_is_silent_is_no_parity(front: Front, sound: PortFront) -> None:
    seam = "processor.videos.0.resized"
    raised = judge_front(front, Wrong(sound, seam, error=RuntimeError("no kernel")))
    assert raised.error == "RuntimeError: no kernel"
    assert judge(raised.findings, subject_error=raised.error).verdict is Verdict.DIVERGED
    silent = judge_front(front, Wrong(sound, seam, dropped=True))
    assert judge(silent.findings).verdict is Verdict.INCOMPLETE


def test_every_kind_of_seam_is_expected_somewhere() -> None:
    expected = expected_processor_seams(1, 1, image_step=0.01, video_step=0.01)
    assert {item.spec.name for item in expected} == {spec.name for spec in processor_specs()}
    assert not expected_processor_seams(0, 0, image_step=1, video_step=1)[0].key.name.startswith("processor.image")


def test_both_traces_are_kept_and_sound(bench: Workbench, sound: PortFront, tmp_path: Path) -> None:
    folder = bench.checkpoint(TINY)
    store = TraceStore(tmp_path)
    inputs = prepare_inputs(
        "kept", ROWS, processor=bench.processor(folder, "float32"), config=read_config(folder), store=store
    )
    judge_front(inputs.front, sound, store=store)
    for name in ("reference-processor", "subject-processor"):
        assert check_folder(tmp_path / name) == []
    first, second = (FolderTrace(tmp_path / f"{name}-processor") for name in ("reference", "subject"))
    assert list(first.entries()) == list(second.entries())


def test_the_models_run_on_what_the_reference_gave(front: Front) -> None:
    assert set(front.tensors) == {
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


def test_a_video_whose_frames_would_not_fit_is_refused(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.qwen3vl.inputs.MAX_FRAME_BYTES", 1000)
    folder = bench.checkpoint(TINY)
    with pytest.raises(ParityError, match="frames sampled from clip"):
        prepare_inputs("large", ROWS[1:], processor=bench.processor(folder, "float32"), config=read_config(folder))


def test_a_checkpoint_may_keep_a_number_of_frames(bench: Workbench, tmp_path: Path) -> None:
    """``num_frames`` in place of ``fps``."""
    folder = Path(shutil.copytree(bench.checkpoint(TINY), tmp_path / "counted"))
    path = folder / "video_preprocessor_config.json"
    own = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**own, "fps": None, "num_frames": 4}), encoding="utf-8")
    rows = (("So? ", Clip(9, 64, 96)),)
    inputs = prepare_inputs("n", rows, processor=bench.processor(folder, "float32"), config=read_config(folder))
    assert inputs.front.tensors["video_grid_thw"].tolist() == [[2, 6, 4]]
    found = judge_front(inputs.front, bench.port_front(folder))
    assert judge(found.findings, subject_error=found.error).verdict is Verdict.PARITY, found.error


def test_the_suite_has_every_form_and_a_sampled_clip() -> None:
    parts = [part for case in standard_suite() for row in case.rows for part in row]
    assert {part.form for part in parts if isinstance(part, Encoded)} == set(FORMATS)
    assert any(isinstance(part, Clip) and part.fps > 10 for part in parts)


def test_the_report_says_which_mistakes_of_a_processor_it_cannot_see(bench: Workbench) -> None:
    folder = bench.checkpoint(TINY)
    inputs = prepare_inputs(
        "plain", (("Hi ", Noise(64, 96)),), processor=bench.processor(folder, "float32"), config=read_config(folder)
    )
    case = standard_suite()[0]
    yardstick = measure_yardstick(inputs, bench.reference(folder, "bfloat16"), progress=lambda _what: None)
    blind = {item["id"]: item["why"] for item in blind_to(case, inputs, yardstick.trace, "bfloat16")}
    assert "resized" in blind["bilinear-instead-of-bicubic"]
    assert "video" in blind["timestamp-half-a-frame"]
    assert "patches-raster-order" not in blind
