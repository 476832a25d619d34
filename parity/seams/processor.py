"""The seams of the processor, from files to token ids, pixels and grids.

Both processors start from the same files. ``port.processor`` has taps with these names, and ``reference.processor``
sends them. For the axes see ``spec``; patches are those of one picture or video.
"""

from __future__ import annotations

from parity.core.trace import GateKind, SeamKey
from parity.seams.spec import Expected, Rows, SeamSpec, label_key

STEP = "processor"
# Timestamps are compared in milliseconds. The prompt shows tenths of a second; at 24 fps, half a frame is 20 ms.
MILLISECOND = 1e-3


def _spec(name: str, layout: str, gate: GateKind, where: str, rows: Rows | None = None) -> SeamSpec:
    return SeamSpec("processor." + name, tuple(layout.split()), where, "processor", gate, rows)


PICTURE_SEAMS = (
    _spec("images.{}.decoded", "y x channel", "exact", "image_utils.load_image"),
    _spec("images.{}.resized", "frame y x channel", "steps", "image_processor.resize"),
    _spec("images.{}.patches", "patch channel", "steps", "image_processor of one picture"),
)
VIDEO_SEAMS = (
    _spec("videos.{}.frame_indices", "frame", "exact", "video_processor.sample_frames"),
    _spec("videos.{}.timestamps", "frame", "steps", "_calculate_timestamps"),
    _spec("videos.{}.decoded", "frame y x channel", "exact", "video_utils.load_video"),
    _spec("videos.{}.resized", "frame y x channel", "steps", "video_processor.resize"),
    _spec("videos.{}.patches", "patch channel", "steps", "video_processor of one video"),
)
IMAGE_GRID = _spec("image_grid_thw", "picture thw", "exact", "returned by the processor")
VIDEO_GRID = _spec("video_grid_thw", "picture thw", "exact", "returned by the processor")
# Ids at padding are not compared, but the mask is.
IDS = _spec("input_ids", "batch token", "exact", "returned by the processor", "tokens")
MASK = _spec("attention_mask", "batch token", "exact", "returned by the processor")


# The values of the whole batch. The others are those of single pictures and videos.
WHOLE_SEAMS = (IMAGE_GRID, VIDEO_GRID, IDS, MASK)


def processor_specs() -> list[SeamSpec]:
    """Return every kind of seam of a processor, in order. ``{}`` is the index of a picture or video in the batch."""
    return [*PICTURE_SEAMS, *VIDEO_SEAMS, *WHOLE_SEAMS]


def expected_processor_seams(images: int, videos: int, *, image_step: float, video_step: float) -> list[Expected]:
    """Return every value that both processors must give for this number of pictures and videos.

    ``image_step`` and ``video_step`` are one 8-bit step in normalised pixels: rescale_factor / std.
    """
    units = {
        "processor.images.{}.patches": image_step,
        "processor.videos.{}.patches": video_step,
        "processor.videos.{}.timestamps": MILLISECOND,
    }
    kinds = [*((PICTURE_SEAMS, index) for index in range(images)), *((VIDEO_SEAMS, index) for index in range(videos))]
    seams = [(spec, index) for specs, index in kinds for spec in specs]
    whole = [IMAGE_GRID] * (images > 0) + [VIDEO_GRID] * (videos > 0) + [IDS, MASK]
    seams += [(spec, 0) for spec in whole]
    return [
        Expected(
            SeamKey(spec.name.format(index), 0),
            spec,
            STEP,
            None if spec.rows is None else label_key(spec.rows, 0),
            units.get(spec.name, 1.0),
        )
        for spec, index in seams
    ]
