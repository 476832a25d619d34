"""Sampling, timestamps and decoding compared with the reference and its PyAV reader; hostile and broken videos."""

from __future__ import annotations

import os
import struct
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import qwen_vl_utils.vision_process as qwen
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata, read_video_pyav

from port import InputError
from port.limits import Limits
from port.video import Frames, load_video, sample_frames, timestamps
from tests.port.cost_samples import measured
from tests.port.pixel_samples import moving, noise, reference_videos, smooth, video_config, write_clip

ALL = video_config(fps=1000.0)  # keeps every frame
RATES = st.one_of(st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0, 60.0]), st.floats(0.01, 1000))


def _metadata(total: int, fps: float) -> VideoMetadata:
    return VideoMetadata(total_num_frames=total, fps=fps)


def _read_by_reference(path: Path, **changes: Any) -> tuple[np.ndarray, VideoMetadata]:
    own = reference_videos(**changes)
    return read_video_pyav(str(path), lambda metadata, **_: own.sample_frames(metadata, fps=own.fps))


def _same(ours: Frames, path: Path, **changes: Any) -> None:
    """Frames, places, rate and number are those of the reference's reader."""
    frames, metadata = _read_by_reference(path, **changes)
    assert ours.frames.dtype == np.uint8
    np.testing.assert_array_equal(ours.frames, frames)
    assert list(ours.indices) == list(metadata.frames_indices)
    assert (ours.fps, ours.total) == (metadata.fps, metadata.total_num_frames)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 200_000), RATES, st.floats(0.01, 100), st.integers(1, 20), st.integers(1, 800))
@example(300, 30.0, 2.0, 4, 768)
@example(3, 30.0, 2.0, 4, 768)
@example(434, 3.0, 2.0, 4, 768)
@example(100_000, 25.0, 2.0, 4, 768)
def test_frames_are_sampled_as_by_the_reference(total: int, fps: float, asked: float, least: int, most: int) -> None:
    rule = {"fps": asked, "min_frames": least, "max_frames": most}
    ours = sample_frames(total, fps, video_config(**rule))
    assert list(ours) == reference_videos(**rule).sample_frames(_metadata(total, fps), fps=asked).tolist()
    assert len(set(ours)) == len(ours)
    assert all(type(index) is int for index in ours)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 100))
def test_num_frames_goes_before_fps(total: int, count: int) -> None:
    ours = sample_frames(total, 30.0, video_config(fps=None, num_frames=count))
    assert list(ours) == reference_videos().sample_frames(_metadata(total, 30.0), num_frames=count).tolist()
    assert len(ours) == count


@settings(max_examples=200, deadline=None)
@given(st.integers(4, 5000), RATES, st.floats(0.1, 10))
def test_qwen_vl_utils_keeps_an_even_number_of_them(total: int, fps: float, asked: float) -> None:
    ours = len(sample_frames(total, fps, video_config(fps=asked)))
    theirs = qwen.smart_nframes({"fps": asked}, total, fps)
    assert theirs == ours // 2 * 2


def test_qwen_vl_utils_refuses_what_is_shorter_than_its_least() -> None:
    assert sample_frames(3, 30.0, video_config()) == (0, 1, 2)
    assert qwen.smart_nframes({}, 3, 30.0) == 2
    with pytest.raises(ValueError, match="nframes should"):
        qwen.smart_nframes({}, 1, 30.0)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_video_needs_a_rate(fps: float) -> None:
    with pytest.raises(InputError, match=rf"10 frames at {fps:g} frames a second; both must be above 0"):
        sample_frames(10, fps, video_config())
    with pytest.raises(InputError, match=r"fps is .*; it must be a number larger than 0"):
        load_video(moving(4, 8, 8), video_config(), fps=fps)


def test_a_video_needs_frames_and_a_tiny_rate_asks_for_no_more_than_there_are() -> None:
    with pytest.raises(InputError, match="0 frames"):
        sample_frames(0, 24.0, video_config())
    assert sample_frames(10, 5e-324, video_config()) == tuple(range(10))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), RATES, st.integers(1, 4))
def test_timestamps_are_the_references(indices: list[int], fps: float, patch: int) -> None:
    indices.sort()
    ours = timestamps(tuple(indices), fps, patch)
    assert list(ours) == Qwen3VLProcessor._calculate_timestamps(SimpleNamespace(), list(indices), fps, patch)
    assert len(ours) == -(-len(indices) // patch)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 40 frames in several containers."""
    folder = tmp_path_factory.mktemp("clips")
    frames = list(moving(40, 48, 64))
    for name in ("clip.mp4", "clip.avi", "clip.mov", "clip.mkv"):
        write_clip(folder / name, frames)
    write_clip(folder / "clip.ts", frames, fps=25, codec="mpeg2video")
    write_clip(folder / "odd-rate.mp4", frames, fps=Fraction(30000, 1001))
    return folder


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mov", "odd-rate.mp4"])
@pytest.mark.parametrize("rule", [{}, {"fps": 7.3}, {"min_frames": 9}, {"max_frames": 4}, {"fps": 1000.0}])
def test_files_are_read_as_by_the_reference(clips: Path, name: str, rule: dict[str, Any]) -> None:
    _same(load_video(clips / name, video_config(**rule)), clips / name, **rule)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
def test_frames_are_counted_where_the_container_does_not_say_how_many(clips: Path, name: str) -> None:
    """The reference fails there."""
    with pytest.raises(IndexError):
        _read_by_reference(clips / name)
    ours = load_video(clips / name, video_config())
    with av.open(str(clips / name)) as container:
        rate = float(container.streams.video[0].average_rate)
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert (ours.total, ours.fps) == (len(whole), rate) == (40, rate)
    assert ours.indices == sample_frames(40, rate, video_config())
    np.testing.assert_array_equal(ours.frames, np.stack(whole)[list(ours.indices)])


def test_num_frames_may_be_more_than_there_are(clips: Path) -> None:
    ours = load_video(clips / "clip.mp4", video_config(fps=None, num_frames=60))
    whole = load_video(clips / "clip.mp4", ALL)
    assert len(ours.indices) == 60
    np.testing.assert_array_equal(ours.frames, whole.frames[list(ours.indices)])


def test_decoding_ends_with_the_last_kept_frame_and_converts_no_other(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted:
        made = 0

        def __init__(self, frame: Any) -> None:
            self.frame = frame
            self.height, self.width = frame.height, frame.width

        def to_ndarray(self, **how: Any) -> np.ndarray:
            Counted.made += 1
            return self.frame.to_ndarray(**how)

    class Container:
        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.decoded = 0

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            self.inner.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def decode(self, **which: Any) -> Any:
            for frame in self.inner.decode(**which):
                self.decoded += 1
                yield Counted(frame)

    opened: list[Container] = []
    original = av.open

    def spying(*args: Any, **kwargs: Any) -> Container:
        opened.append(Container(original(*args, **kwargs)))
        return opened[-1]

    monkeypatch.setattr(av, "open", spying)
    monkeypatch.setattr("port.video.sample_frames", lambda *_: (3, 20))
    ours = load_video(clips / "clip.mp4", video_config())
    monkeypatch.undo()
    assert (len(opened), opened[0].decoded, Counted.made) == (1, 21, 2)
    np.testing.assert_array_equal(ours.frames, load_video(clips / "clip.mp4", ALL).frames[[3, 20]])


def test_a_turned_phone_video_stays_as_it_is_stored_as_in_the_reference(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "clip.mp4").read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # the display matrix: a quarter turn
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    with av.open(str(tmp_path / "turned.mp4")) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90
    ours = load_video(tmp_path / "turned.mp4", video_config())
    assert ours.frames.shape == (8, 48, 64, 3)
    _same(ours, tmp_path / "turned.mp4")


def _stating(clips: Path, folder: Path, count: int) -> Path:
    """The AVI, with another number of frames in its header."""
    data = bytearray((clips / "clip.avi").read_bytes())
    place = data.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", data, place) == (40,)
    struct.pack_into("<I", data, place, count)
    (folder / f"stating-{count}.avi").write_bytes(data)
    return folder / f"stating-{count}.avi"


@pytest.mark.parametrize("count", [41, 50, 70])
def test_stated_frames_that_are_not_there_are_left_out(clips: Path, tmp_path: Path, count: int) -> None:
    path = _stating(clips, tmp_path, count)
    ours = load_video(path, video_config())
    frames, metadata = _read_by_reference(path)
    np.testing.assert_array_equal(ours.frames, frames)
    assert ours.total == metadata.total_num_frames == count
    stated = [int(index) for index in metadata.frames_indices]
    assert list(ours.indices) == [index for index in stated if index < 40]
    assert len(ours.indices) == len(frames) < len(stated)
    theirs = Qwen3VLProcessor._calculate_timestamps(SimpleNamespace(), stated, ours.fps, 2)
    mine = timestamps(ours.indices, ours.fps, 2)
    even = len(frames) // 2
    assert list(mine[:even]) == theirs[:even]
    if len(frames) % 2:
        assert mine[even] < theirs[even], "the reference's last one is taken with a frame that is not there"


def test_fewer_stated_frames_than_there_are_are_all_that_is_read(clips: Path, tmp_path: Path) -> None:
    path = _stating(clips, tmp_path, 20)
    _same(load_video(path, video_config()), path)


def test_absurd_numbers_of_frames_are_refused_without_being_read(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"states 400000 frames, but only 1 of the 768 to be kept exist; remux it"):
        load_video(_stating(clips, tmp_path, 400_000), ALL)
    with pytest.raises(InputError, match=r"has more than 500,000 frames; cut it, or raise Limits.max_video_packets"):
        load_video(_stating(clips, tmp_path, 1_000_000_000), video_config())
    with pytest.raises(InputError, match="more than 39 frames"):
        load_video(clips / "clip.mkv", video_config(), limits=Limits(max_video_packets=39))
    assert load_video(clips / "clip.mkv", video_config(), limits=Limits(max_video_packets=40)).total == 40


def test_limits_on_pixels_are_looked_at_before_anything_is_decoded(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 48 * 64
    path, config = clips / "clip.mp4", video_config()  # keeps 8 frames
    load_video(path, config, limits=Limits(max_video_pixels=8 * size, max_picture_pixels=size))
    said = r"8 frames of 64 x 48 would be kept of the video .*, 24,576 pixels; at most 24,575 are allowed"
    with pytest.raises(InputError, match=said):
        load_video(path, config, limits=Limits(max_video_pixels=8 * size - 1))
    with pytest.raises(InputError, match=r"64 x 48; at most 3,071 pixels are decoded.*max_picture_pixels"):
        load_video(path, config, limits=Limits(max_picture_pixels=size - 1))
    frames = moving(8, 48, 64)
    for source in (frames, list(frames), [Image.fromarray(frame) for frame in frames]):
        assert load_video(source, ALL, limits=Limits(max_video_pixels=8 * size)).total == 8
        with pytest.raises(InputError, match="8 frames of 64 x 48"):
            load_video(source, ALL, limits=Limits(max_video_pixels=8 * size - 1))


def _cut(path: Path, to: Path, share: float) -> Path:
    to.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return to


def _refused_by_both(path: Path, said: str) -> None:
    with pytest.raises(Exception, match=r".*"):
        _read_by_reference(path)
    with pytest.raises(InputError, match=said):
        load_video(path, video_config())


def test_broken_files_are_refused(clips: Path, tmp_path: Path) -> None:
    _refused_by_both(_cut(clips / "clip.mp4", tmp_path / "cut.mp4", 0.5), r"cut\.mp4 cannot be decoded.*convert it")
    (tmp_path / "text.mp4").write_text("no video")
    _refused_by_both(tmp_path / "text.mp4", r"text\.mp4 cannot be decoded")
    (tmp_path / "empty.mp4").write_bytes(b"")
    _refused_by_both(tmp_path / "empty.mp4", r"empty\.mp4 is empty \(0 bytes\)")
    _refused_by_both(tmp_path / "nowhere.mp4", r"nowhere\.mp4 does not exist")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    with pytest.raises(InputError, match=r"sound\.wav"):
        load_video(tmp_path / "sound.wav", video_config())
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _refused_by_both(tmp_path / "sound.mkv", r"sound\.mkv has no video stream")
    write_clip(tmp_path / "one.mp4", list(moving(1, 48, 64)))
    with pytest.raises(
        InputError, match=r"one\.mp4 has 1 frame\(s\), but a temporal patch needs 2; use a longer video"
    ):
        load_video(tmp_path / "one.mp4", video_config())


def test_damage_in_the_middle_is_refused_where_the_reference_refuses_it(tmp_path: Path) -> None:
    """More threads in FFmpeg would pass over it, and show other frames than the reference's."""
    write_clip(tmp_path / "clip.mp4", list(moving(40, 48, 64)), codec="mpeg4")
    whole = (tmp_path / "clip.mp4").read_bytes()
    start = whole.index(b"mdat") + 4
    rng = np.random.default_rng(0)
    for trial in range(12):
        data = bytearray(whole)
        for place in rng.integers(start, len(whole) * 3 // 4, 4 + 20 * trial):
            data[place] ^= 0xFF
        path = tmp_path / f"damaged-{trial}.mp4"
        path.write_bytes(data)
        try:
            frames, _ = _read_by_reference(path)
        except Exception:
            with pytest.raises(InputError):
                load_video(path, video_config())
            continue
        np.testing.assert_array_equal(load_video(path, video_config()).frames, frames)


def test_what_never_ends_or_leads_elsewhere_is_refused(clips: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(
            InputError, match=r"is not a regular file \(a pipe may never end\); save it to a file first"
        ):
            load_video(path, video_config())
    for url in ("https://example.com/clip.mp4", "rtsp://example.com", "concat://a.mp4", "pipe://0"):
        with pytest.raises(InputError, match="is a URL, and nothing is downloaded"):
            load_video(url, video_config())
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{clips / 'clip.ts'}'\n")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{clips / 'clip.ts'}\n#EXT-X-ENDLIST\n"
    )
    for name in ("list.ffconcat", "list.m3u8"):
        with pytest.raises(InputError, match=rf"{name} cannot be decoded"):
            load_video(tmp_path / name, video_config())


def test_frames_that_change_their_size_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "small.ts", list(moving(10, 48, 64)), codec="mpeg2video", fps=25)
    write_clip(tmp_path / "large.ts", list(moving(10, 96, 64)), codec="mpeg2video", fps=25)
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    with pytest.raises(InputError, match=r"has frames of 64 x 48 and of 64 x 96; they must all have the same size"):
        load_video(both, ALL)
    with pytest.raises(InputError, match=r"both\.ts"):
        load_video(both, ALL, limits=Limits(max_picture_pixels=48 * 64))
    with pytest.raises(InputError, match=r"frames of 64 x 48 and of 32 x 48"):
        load_video([noise(48, 64, 3), noise(48, 32, 3)], ALL)


@pytest.mark.parametrize("fps", [None, 5.0, 30])
def test_arrays_lists_and_folders_are_one_video(tmp_path: Path, fps: float | None) -> None:
    """Sampled as the reference samples arrays, at 24 frames per second if no rate is given."""
    frames = moving(50, 16, 24)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame-{index}.png")  # frame-10 sorts before frame-9 by its letters
    (tmp_path / ".hidden").write_text("no picture")
    indices = reference_videos().sample_frames(_metadata(50, 24 if fps is None else fps), fps=2)
    pictures = [Image.fromarray(frame) for frame in frames]
    for source in (frames, list(frames), tuple(pictures), tmp_path, str(tmp_path), sorted(frames, key=lambda _: 0)):
        ours = load_video(source, video_config(), fps=fps)
        np.testing.assert_array_equal(ours.frames, frames[indices])
        assert (list(ours.indices), ours.fps, ours.total) == (indices.tolist(), fps or 24.0, 50)


def test_only_kept_pictures_of_a_folder_are_read(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    for index in (0, 10, 19, 29):
        Image.fromarray(smooth(8, 8)).save(tmp_path / f"{index}.png")
    assert load_video(tmp_path, video_config(), fps=30).indices == (0, 10, 19, 29)
    (tmp_path / "10.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"10\.png is in an unknown format"):
        load_video(tmp_path, video_config(), fps=30)


def test_names_are_sorted_as_people_count(tmp_path: Path) -> None:
    names = ["a1.png", "a2.png", "a02b.png", "a10.png", "a010.png", "a100.png", "b.png", "b²3.png", "b10.png"]
    for value, name in enumerate(names):
        Image.new("L", (8, 8), value).save(tmp_path / name)
    ours = load_video(tmp_path, ALL)
    order = [names[value] for value in ours.frames[:, 0, 0, 0]]
    assert order.index("a2.png") < order.index("a10.png") < order.index("a100.png") < order.index("b.png")
    assert order.index("a1.png") < order.index("a02b.png") < order.index("a10.png")
    assert sorted(order) == sorted(names)


@pytest.mark.parametrize(
    ("source", "fps", "said"),
    [
        (np.zeros((4, 8, 8), np.uint8), None, r"uint8 \[4, 8, 8\]; it must be uint8 \[frames, height, width, 3\]"),
        (np.zeros((4, 3, 8, 8), np.uint8), None, r"\[4, 3, 8, 8\]"),
        (np.zeros((4, 8, 8, 3), np.float32), None, "float32"),
        (np.zeros((1, 8, 8, 3), np.uint8), None, r"1 frame\(s\), but a temporal patch needs 2"),
        (np.zeros((0, 8, 8, 3), np.uint8), None, r"0 frame\(s\)"),
        ([], None, r"0 frame\(s\)"),
        ([Image.new("L", (8, 8))], None, r"1 frame\(s\)"),
        ([5, 6], None, "a picture is a int"),
        (b"bytes", None, "a video is a bytes"),
        (Image.new("L", (8, 8)), None, "a video is a Image"),
        (5, None, "a video is a int"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, "24", "fps is '24'; it must be a number"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, True, "fps is True"),
        ([np.zeros((2, 500, 3), np.uint8)] * 2, None, "500 x 2, but the aspect ratio may be at most 200"),
    ],
)
def test_what_is_no_video_is_refused(source: Any, fps: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_video(source, video_config(), fps=fps)


def test_folders_without_frames_are_refused_and_files_have_their_own_rate(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        load_video(tmp_path, video_config())
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "notes.txt").write_text("shot on a Tuesday")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is not a picture"):
        load_video(tmp_path, video_config())
    with pytest.raises(InputError, match="has its own frame rate; remove fps"):
        load_video(clips / "clip.mp4", video_config(), fps=24)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_header_is_read_or_an_input_error(
    clips: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:
    data = bytearray((clips / "clip.mp4").read_bytes())
    start = data.index(b"moov")
    for place, value in changes:
        data[start + int(place * (len(data) - start))] = value
    path = tmp_path_factory.mktemp("damaged") / "clip.mp4"
    path.write_bytes(data)
    limits = Limits(max_video_packets=1000, max_video_pixels=10**7, max_picture_pixels=10**6)
    try:
        ours = load_video(path, video_config(), limits=limits)
    except InputError:
        return
    assume(ours.total <= 1000)
    try:
        frames, _ = _read_by_reference(path)
    except Exception:
        reject()  # the reference fails on a file whose header gives no number of frames; nothing can be compared
    np.testing.assert_array_equal(ours.frames, frames)


COST = """
import json, sys
from pathlib import Path
from port.video import load_video
from tests.port.pixel_samples import video_config
load_video(Path(sys.argv[1]), video_config())
before = peak_mib()
video = load_video(Path(sys.argv[2]), video_config(max_frames=32))
after = peak_mib()
print(json.dumps({"mib": after - before, "kept": video.frames.nbytes / 2**20, "total": video.total}))
"""


@pytest.mark.slow
def test_a_long_video_takes_the_memory_of_its_kept_frames(clips: Path, tmp_path: Path) -> None:
    """2000 frames of 220 KiB, 430 MiB in all, of which 32 are kept."""
    first = smooth(240, 320)
    write_clip(tmp_path / "long.mp4", [first] * 2000, fps=30)
    cost = measured(COST, clips / "clip.mp4", tmp_path / "long.mp4")
    assert cost["total"] == 2000
    assert cost["kept"] < 8
    assert cost["mib"] < 40
