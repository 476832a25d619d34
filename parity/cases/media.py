"""Pictures and clips: files of the user, a photo that matplotlib ships, and ones made from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from matplotlib import cbook
from PIL import Image, UnidentifiedImageError

from parity.core.errors import ParityError
from reference.media import PictureForm, VideoForm, VideoFrames
from reference.world.drawing import draw_clip, draw_picture
from reference.world.questions import questions
from reference.world.scenes import CLIP_FPS, CLIP_FRAMES, Scene, draw_scene

# Pillow runs Ghostscript for PostScript, and would so run a program written by the picture's author.
_RUN_BY_OTHERS = ("EPS",)
# FFmpeg's names of formats that contain their own frames. Playlists are not among them: FFmpeg would open the files and
# addresses in a playlist. The last formats hold only sound; they are listed to tell them apart from damaged videos.
_FILES_ONLY = {
    "format_whitelist": "mov,matroska,avi,flv,mpegts,mpeg,asf,ogg,gif,apng,h264,hevc,ivf,m4v,mpegvideo,nut,mxf,dv,rm,"
    "wav,mp3,flac,aac",
    "protocol_whitelist": "file",
}
# What is assumed for a folder of frames.
FOLDER_FPS = 24.0
# Limit for the decoded frames of one video: a thousand frames of 720p.
MAX_FRAME_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Photo:
    """The photograph of Grace Hopper that matplotlib ships, resized to ``size`` (width, height) if given."""

    size: tuple[int, int] | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def title(self) -> str:
        return "grace_hopper.jpg" + (f", {self.size[0]} x {self.size[1]}" if self.size else "")

    def load(self) -> Image.Image:
        with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
            image = file.convert("RGB")
        if self.box:
            image = image.crop(self.box)
        return image.resize(self.size, Image.Resampling.BICUBIC) if self.size else image


@dataclass(frozen=True)
class Noise:
    """A picture of random blocks, width x height, from a seed. No two patches are the same."""

    width: int
    height: int
    seed: int = 0

    @property
    def title(self) -> str:
        return f"noise {self.width} x {self.height} (seed {self.seed})"

    def load(self) -> Image.Image:
        rng = np.random.default_rng(self.seed)
        small = rng.integers(0, 256, (self.height // 4 + 1, self.width // 4 + 1, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((self.width, self.height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.name

    def load(self) -> Image.Image:
        """Return RGB pixels. Raises ParityError if the file is missing, not a picture, or a decompression bomb."""
        _check_file("picture", self.path)
        try:
            with Image.open(self.path) as image:
                if image.format in _RUN_BY_OTHERS:
                    raise ParityError(
                        f"the picture {self.path} has the format {image.format}, and Pillow would run "
                        "another program to decode it; convert it to PNG"
                    )
                return image.convert("RGB")
        except UnidentifiedImageError:
            raise ParityError(
                f"the picture {self.path} cannot be decoded: its format is unknown; convert it to PNG or JPEG"
            ) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise ParityError(
                f"the picture {self.path} cannot be decoded: {error}; convert it to PNG or JPEG"
            ) from None
        except Image.DecompressionBombError as error:
            raise ParityError(f"the picture {self.path} is too large: {error}; scale it down") from None


@dataclass(frozen=True)
class Cropped:
    """The upper left part of another picture, with 3/5 of its width and 9/10 of its height."""

    picture: Picture

    @property
    def title(self) -> str:
        return f"{self.picture.title}, cropped"

    def load(self) -> Image.Image:
        image = self.picture.load()
        return image.crop((0, 0, max(1, image.width * 3 // 5), max(1, image.height * 9 // 10)))


@dataclass(frozen=True)
class Changed:
    """A picture that equals another in part.

    ``how``: "middle" (random pixels in a square in the middle), "mirrored" (left and right exchanged, so that the sum
    of the pixels is the same), "last" (another last row of pixels).
    """

    picture: Picture
    how: Literal["middle", "mirrored", "last"]

    @property
    def title(self) -> str:
        return f"{self.picture.title}, {self.how} changed"

    def load(self) -> Image.Image:
        pixels = np.array(self.picture.load())
        height, width = pixels.shape[:2]
        if self.how == "mirrored":
            return Image.fromarray(np.ascontiguousarray(pixels[:, ::-1]))
        rows = slice(height // 3, 2 * height // 3) if self.how == "middle" else slice(height - 1, height)
        part = pixels[rows, width // 3 : 2 * width // 3]
        part[:] = np.random.default_rng(height).integers(0, 256, part.shape, dtype=np.uint8)
        return Image.fromarray(pixels)


FORMATS = ("jpeg", "turned", "grey", "alpha", "palette", "cmyk", "grey16")
FURTHER_FORMATS = (
    "exif-2", "exif-3", "exif-4", "exif-5", "exif-7", "exif-8", "bilevel", "grey-alpha", "white16", "animated", "webp",
    "bmp", "opaque-palette",
)  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """Another picture, in a file format that is easy to decode wrongly. See ``parity.cases.files``.

    ``form``: "jpeg"; "turned" (an EXIF orientation that turns it by 90 degrees); "grey"; "alpha" (one half is
    transparent); "palette" (256 colours, one of them transparent); "cmyk"; "grey16" (16 bits). The further ones:
    "exif-N" (another orientation); "bilevel" (black and white); "grey-alpha"; "white16" (16 bits, numbers above 255);
    "animated" (two frames); "webp"; "bmp"; "opaque-palette".
    """

    picture: Picture
    form: str

    @property
    def title(self) -> str:
        return f"{self.picture.title}, {self.form}"

    def load(self) -> Image.Image:
        """Return the picture as it is before it is encoded."""
        return self.picture.load()


@dataclass(frozen=True)
class Clip:
    """A camera that moves over the photograph: ``frames`` frames of width x height at ``fps``."""

    frames: int
    width: int
    height: int
    fps: float = 4.0

    @property
    def title(self) -> str:
        return f"clip of {self.frames} frames, {self.width} x {self.height}"

    def load(self) -> VideoFrames:
        image = Photo().load()
        rng = np.random.default_rng(self.frames * 7919 + self.width)
        path = np.cumsum(rng.integers(3, 12, (self.frames, 2)), axis=0)
        frames = [np.asarray(image.crop((int(x), int(y), int(x) + self.width, int(y) + self.height))) for x, y in path]
        return VideoFrames(np.stack(frames), self.fps)

    def probe(self) -> VideoHeader:
        return VideoHeader(self.frames, self.width, self.height, self.fps)


@dataclass(frozen=True)
class FrameFolder:
    """The frames of a clip as a folder of pictures. A folder states no frame rate, so 24 is assumed."""

    clip: Clip

    @property
    def title(self) -> str:
        return f"folder of a {self.clip.title}"

    def load(self) -> VideoFrames:
        return VideoFrames(self.clip.load().frames, FOLDER_FPS)

    def probe(self) -> VideoHeader:
        return VideoHeader(self.clip.frames, self.clip.width, self.clip.height, FOLDER_FPS)


@dataclass(frozen=True)
class GivenPicture:
    """Another picture, which a port gets in another form than as a path: see ``reference.media.PictureForm``."""

    picture: Picture
    form: PictureForm

    @property
    def title(self) -> str:
        return f"{self.picture.title}, as {self.form}"

    def load(self) -> Image.Image:
        return self.picture.load()


@dataclass(frozen=True)
class GivenFrames:
    """A folder of frames, which a port gets in another form than as a path, with a frame rate if there is one."""

    folder: FrameFolder
    form: VideoForm
    fps: float | None = None

    @property
    def title(self) -> str:
        return f"{self.folder.title}, as {self.form}"

    def load(self) -> VideoFrames:
        return VideoFrames(self.folder.load().frames, self.fps or FOLDER_FPS)

    def probe(self) -> VideoHeader:
        return replace(self.folder.probe(), fps=self.fps or FOLDER_FPS)


@dataclass(frozen=True)
class WorldPicture:
    """A held-out picture of the small world that the trained model knows. See ``reference.world``."""

    number: int

    @property
    def title(self) -> str:
        return f"scene {self.number}"

    @property
    def question(self) -> str:
        """One question that the trained model can answer."""
        return _world(self.number, clip=False)[1]

    def load(self) -> Image.Image:
        return draw_picture(_world(self.number, clip=False)[0])


@dataclass(frozen=True)
class WorldClip:
    """A held-out clip of the small world."""

    number: int

    @property
    def title(self) -> str:
        return f"moving scene {self.number}"

    @property
    def question(self) -> str:
        """One question that the trained model can answer."""
        return _world(self.number, clip=True)[1]

    def load(self) -> VideoFrames:
        return VideoFrames(draw_clip(_world(self.number, clip=True)[0]), CLIP_FPS)

    def probe(self) -> VideoHeader:
        scene = _world(self.number, clip=True)[0]
        return VideoHeader(CLIP_FRAMES, scene.width, scene.height, CLIP_FPS)


def _world(number: int, *, clip: bool) -> tuple[Scene, str]:
    """Return a scene with a question about it. The same number gives the same scene."""
    rng = np.random.default_rng([number, clip])
    scene = draw_scene(rng, clip=clip, held_out=True)
    return scene, questions(scene, rng, 1)[0].text


@dataclass(frozen=True)
class VideoHeader:
    """The header of a video. ``fps`` is the average."""

    frames: int
    width: int
    height: int
    fps: float


@dataclass(frozen=True)
class VideoFile:
    """A video on disk: a file, decoded with PyAV, or a folder of its frames as pictures."""

    path: Path

    @property
    def title(self) -> str:
        return self.path.name

    def probe(self) -> VideoHeader:
        """Return the header. Raises ParityError if the first frame cannot be decoded."""
        if self.path.is_dir():
            return _probe_folder(self.path)
        import av  # loads FFmpeg, which only runs with a video need

        _check_file("video", self.path)
        try:
            with av.open(str(self.path), options=_FILES_ONLY) as container:
                if not container.streams.video:
                    raise ParityError(f"{self.path} has no video stream; name a video")
                stream = container.streams.video[0]
                fps = float(stream.average_rate or 0)
                first = next(container.decode(stream), None)
        except (av.FFmpegError, OSError) as error:
            why = error.strerror or error
            raise ParityError(f"the video {self.path} cannot be decoded: {why}; convert it to MP4") from None
        if first is None or stream.frames <= 0 or fps <= 0:
            raise ParityError(
                f"the video {self.path} claims to have {stream.frames} frames at {fps:g} frames per second; "
                "convert it to MP4"
            )
        return VideoHeader(stream.frames, stream.width, stream.height, fps)


def _probe_folder(folder: Path) -> VideoHeader:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise ParityError(f"the video {folder} is a folder without pictures; put its frames there")
    width, height = PictureFile(files[0]).load().size
    return VideoHeader(len(files), width, height, FOLDER_FPS)


def _check_file(what: str, path: Path) -> None:
    """Refuse files for which a decoder would give an unclear message."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ParityError(f"the {what} {path} does not exist") from None
    except OSError as error:
        raise ParityError(f"the {what} {path} cannot be read: {error.strerror}") from None
    if path.is_dir():
        raise ParityError(f"the {what} {path} is a folder; name a file")
    if not path.is_file():
        raise ParityError(f"the {what} {path} is not a regular file (a pipe may never end); save it to a file first")
    if size == 0:
        raise ParityError(f"the {what} {path} is empty (0 bytes)")


Picture = Photo | Noise | PictureFile | Cropped | Changed | Encoded | GivenPicture | WorldPicture
Video = Clip | FrameFolder | GivenFrames | VideoFile | WorldClip
Source = str | Picture | Video


def is_picture(source: Source) -> TypeGuard[Picture]:
    """Return whether a source is a picture, not a text or a video."""
    return isinstance(source, Picture)


def scene_row(number: int, *, clip: bool = False) -> tuple[Source, ...]:
    """Return a held-out picture or clip of the small world and a question about it."""
    shown = WorldClip(number) if clip else WorldPicture(number)
    return (shown, shown.question)
