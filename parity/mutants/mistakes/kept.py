"""Mistakes of memory: what a port keeps from one request, or one picture, and uses for another that is like it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
from torch import Tensor

import port.model
import port.pixels
import port.processor
import port.video
from parity.mutants.base import altered, around, family
from port.cache import KVCache
from port.model import Inputs, Qwen3VL
from port.processor import Processor
from port.tokenizer import Tokenizer
from port.vision import PatchEmbed

# The component of mistakes that keep something of the files of one request for another.
KEEPS_FILES = "processor-state"


def _by(key: Callable[..., Hashable], owner: Any, name: str) -> AbstractContextManager[None]:
    """What ``owner.name`` returns is kept by ``key(*args, **kwargs)``."""
    kept: dict[Hashable, Any] = {}

    def call(original: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = key(*args, **kwargs)
        if wanted not in kept:
            kept[wanted] = original(*args, **kwargs)
        return kept[wanted]

    return around(owner, name, call)


@contextmanager
def _seams_by_shape(*seams: str) -> Iterator[None]:
    """The values of these seams are kept by their shape."""
    kept: dict[tuple[Any, ...], Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        return lambda value, *numbers: kept.setdefault((name, numbers, value.shape), value)

    with ExitStack() as stack:
        for seam in seams:
            stack.enter_context(altered(seam, keep(seam)))
        yield


def _ids(input_ids: Tensor, _mask: Tensor, **_rest: Any) -> Hashable:
    return input_ids.numpy().tobytes()


def _address(_layer: PatchEmbed, pixels: Tensor) -> Hashable:
    return (pixels.data_ptr(), pixels.shape)


def _first_pixels(_layer: PatchEmbed, pixels: Tensor) -> Hashable:
    return (pixels.shape, pixels.reshape(-1)[:4096].numpy().tobytes())


def _sum_of_pixels(_layer: PatchEmbed, pixels: Tensor) -> Hashable:
    return (pixels.shape, round(float(pixels.double().sum()), 1))


def _failed_delta() -> AbstractContextManager[None]:
    """A request that fails in the cache leaves its rope delta to the next one."""
    left: list[Tensor] = []

    def prefill(original: Any, self: Qwen3VL, inputs: Inputs, cache: KVCache, **options: Any) -> Tensor:
        waiting = left[:]
        left.clear()
        try:
            logits = original(self, inputs, cache, **options)
        except Exception:
            left.append(cache.rope_delta + 1)
            raise
        if waiting and waiting[0].shape == cache.rope_delta.shape:
            cache.rope_delta = waiting[0]
        return logits

    return around(Qwen3VL, "prefill", prefill)


def _by_name(place: Callable[..., Any], owner: Any, name: str) -> AbstractContextManager[None]:
    """Decoded files are kept by their path."""
    return _by(lambda *args, **options: str(place(*args, **options)), owner, name)


def _area(height: int, width: int, **limits: int) -> Hashable:
    return (height * width, *limits.values())


def _failed_picture() -> AbstractContextManager[None]:
    """A request that fails leaves its first picture to the next one, in place of that one's first."""
    left: list[np.ndarray] = []

    def prepare(original: Any, self: Processor, conversations: Any, **options: Any) -> Any:
        try:
            return original(self, conversations, **options)
        except Exception:
            left.append(np.zeros((64, 96, 3), dtype=np.uint8))
            raise

    def load(original: Any, source: Any, limits: Any) -> Any:
        return left.pop() if left else original(source, limits)

    @contextmanager
    def both() -> Iterator[None]:
        with around(Processor, "prepare", prepare), around(port.processor, "load_picture", load):
            yield

    return both()


state = family(component="state", step="prefill, *", needs=frozenset({"turned request"}))
pixels = family(component="state", seam="vision.patch_embed", step="prefill, images")
files = family(component=KEEPS_FILES, step="processor", stage="processor", needs=frozenset({"files renewed"}))

MUTANTS = [
    state(
        "vision-rope-kept-by-patches",
        "the angles of the vision tower are kept by the number of patches",
        lambda: _seams_by_shape("vision.rope_cos", "vision.rope_sin"),
        seam="vision.rope_cos",
    ),
    state(
        "pos-embed-kept-by-patches",
        "the interpolated position table is kept by the number of patches",
        lambda: _seams_by_shape("vision.pos_embed"),
        seam="vision.pos_embed",
    ),
    state(
        "positions-kept-by-ids",
        "positions are kept by the token ids, whatever the grids",
        lambda: _by(_ids, port.model, "mrope_positions"),
        seam="text.position_ids",
        step="prefill",
    ),
    state(
        "text-rope-kept-by-shape",
        "the angles of the language model are kept by the shape of the positions",
        lambda: _seams_by_shape("text.rope_cos", "text.rope_sin"),
        seam="text.rope_cos",
        step="*",
    ),
    state(
        "mask-kept-by-shape",
        "the causal mask is kept by its shape",
        lambda: _seams_by_shape("text.causal_mask"),
        seam="text.causal_mask",
        step="prefill",
        needs=frozenset({"rows exchanged"}),
    ),
    pixels(
        "features-kept-by-address",
        "the patch embedding is kept by the address of the pixels",
        lambda: _by(_address, PatchEmbed, "forward"),
        needs=frozenset({"turned request"}),
    ),
    pixels(
        "features-kept-by-first-pixels",
        "the patch embedding is kept by the first pixels",
        lambda: _by(_first_pixels, PatchEmbed, "forward"),
        needs=frozenset({"request equal in part"}),
    ),
    pixels(
        "features-kept-by-sum",
        "the patch embedding is kept by the sum of the pixels",
        lambda: _by(_sum_of_pixels, PatchEmbed, "forward"),
        needs=frozenset({"mirrored request"}),
    ),
    state(
        "failed-request-leaves-delta",
        "a request that fails leaves its rope delta to the next one",
        _failed_delta,
        seam="text.position_ids",
        step="decode 1",
        needs=frozenset({"failed last"}),
    ),
    files(
        "pictures-kept-by-name",
        "decoded pictures are kept by the name of their file",
        lambda: _by_name(lambda source, _limits: source, port.processor, "load_picture"),
        seam="processor.images.{}.decoded",
    ),
    files(
        "videos-kept-by-name",
        "decoded videos are kept by the name of their file",
        lambda: _by_name(lambda path, *_rest: path, port.video, "_from_file"),
        seam="processor.videos.{}.frame_indices|processor.videos.{}.timestamps|processor.videos.{}.decoded",
    ),
    files(
        "size-kept-by-area",
        "the size of a resized picture is kept by its number of pixels",
        lambda: _by(_area, port.pixels, "smart_resize"),
        seam="processor.images.{}.resized",
    ),
    files(
        "timestamps-kept-by-count",
        "timestamps are kept by the number of frames",
        lambda: _by(lambda indices, _fps, patch: (len(indices), patch), port.processor, "timestamps"),
        seam="processor.videos.{}.timestamps",
    ),
    files(
        "ids-kept-by-length",
        "token ids are kept by the length of the text",
        lambda: _by(lambda _self, text: len(text), Tokenizer, "encode"),
        seam="processor.input_ids",
    ),
    files(
        "failed-request-leaves-picture",
        "a request that fails leaves a picture to the next one",
        _failed_picture,
        seam="processor.images.0.decoded",
        needs=frozenset({"failed last"}),
    ),
]
