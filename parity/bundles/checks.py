"""Whether a bundle can be what it says it is. These checks hold even if somebody changed it and made new digests.

They find a reference or floors that do not fit each other, the inputs or the contract of the seams. A forger who
changes all of them alike is only noticed if the bundle's sha256 is compared with the one that its maker published.

Shape legend
    B, S      batch, prompt tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parity.bundles.bundle import BundleCase
from parity.bundles.files import BundleError
from parity.bundles.generation import check_generation
from parity.bundles.inputs import SEAM_OF, Inputs
from parity.bundles.packing import compared_rows
from parity.bundles.trace import BundleTrace, compared
from parity.core.binding import check_width
from parity.core.digest import checkpoint_digest
from parity.core.floors import Floors
from parity.core.gates import ulp
from parity.core.metrics import row_norms
from parity.core.trace import PADDING, Entry, SeamKey, Trace
from parity.seams.contract import check_expected, check_reference
from parity.seams.model import expected_model_seams
from parity.seams.processor import IDS, IMAGE_GRID, MASK, VIDEO_GRID, expected_processor_seams
from parity.seams.spec import Expected, label_key

# One 8-bit step is 1/255 of the range before it is divided by the standard deviation, which is 0.5 in released models.
_LARGEST_STEP = 1 / 255 / 0.2
# The processor's seams that are also inputs of the model.
_SHARED = {"input_ids": IDS, "attention_mask": MASK, "image_grid_thw": IMAGE_GRID, "video_grid_thw": VIDEO_GRID}


def check_stage(case: BundleCase, stage: str, dtype: str) -> tuple[BundleTrace, Floors]:
    """Check the reference and the floors of a stage at a dtype, and return them. Raises ParityError.

    Every tensor is read once, one at a time.
    """
    try:
        _check_checkpoint(case)
        reference = case.reference(stage, dtype)
        _check_description(case, reference)
        check_reference(reference)
        floors = case.floors(reference, stage, dtype)
        if stage == "processor":
            _check_processor(case, reference)
        elif stage == "generation":
            check_generation(case, reference)
            check_width(floors, dtype)
            for entry in (entry for entry in reference if entry.gate == "float"):
                _check_float(reference, entry, floors, dtype)
        else:
            _check_model(case, reference, floors, dtype)
        floors.check_runs()
    except (ValueError, IndexError) as error:  # numpy's, where shapes do not fit each other
        raise BundleError(f"the bundle's {stage} stage of {case.name}, {dtype}: {error}") from None
    return reference, floors


def _check_checkpoint(case: BundleCase) -> None:
    place = case.record["checkpoint"]["folder"]
    if place is not None:
        found = checkpoint_digest(case.folder / place)
        if found != case.checkpoint:
            raise BundleError(f"its checkpoint {place} has the sha256 {found}, bundle.json says {case.checkpoint}")


def _check_description(case: BundleCase, reference: Trace) -> None:
    found = reference.description
    for what, mine, own in (
        ("case", found.case, case.name),
        ("checkpoint", found.checkpoint, case.checkpoint),
        ("producer", found.producer, "transformers"),
    ):
        if mine != own:
            raise BundleError(f"its reference has the {what} {mine!r}, bundle.json says {own!r}")


def _check_model(case: BundleCase, reference: BundleTrace, floors: Floors, dtype: str) -> None:
    expected = expected_model_seams(
        case.dimensions,
        decode_steps=case.record["decode_steps"],
        images=case.count("image") > 0,
        videos=case.count("video") > 0,
    )
    check_expected(reference, expected)
    _check_inputs(case, reference)
    _check_tokens(case, reference, dtype)
    check_width(floors, dtype)
    for entry in reference:
        if entry.gate == "float":
            _check_float(reference, entry, floors, dtype)


def _check_inputs(case: BundleCase, reference: BundleTrace) -> None:
    inputs = _inputs(case)
    wanted = {name for name, key in SEAM_OF.items() if key in reference.entries()}
    if inputs.names != wanted:
        raise BundleError(f"{inputs.path} has {sorted(inputs.names)}, expected {sorted(wanted)}")
    for name in sorted(wanted):
        _same_input(inputs, name, reference, SEAM_OF[name])
    mask = inputs.read("attention_mask")  # (B, S)
    hidden = mask == 0
    # Seen from the padded end, hidden tokens come first, and the last token is real.
    seen = hidden if case.record["padding_side"] == "left" else hidden[:, ::-1]
    if (np.diff(seen.astype(np.int8), axis=1) > 0).any() or seen[:, -1].any():
        raise BundleError(f"its attention mask is not padded on the {case.record['padding_side']}")
    if len(mask) != len(case.record["rows"]):
        raise BundleError(f"its inputs have {len(mask)} rows, bundle.json {len(case.record['rows'])}")


def _check_tokens(case: BundleCase, reference: BundleTrace, dtype: str) -> None:
    """The tokens of the decode steps are the likeliest ones of the reference, and those that it was fed."""
    mask, steps = _inputs(case).read("attention_mask"), case.record["decode_steps"]
    listed = case.part(dtype)["decode_tokens"]
    if [len(row) for row in listed] != [steps] * len(mask):
        raise BundleError(f"its decode tokens are not {len(mask)} rows of {steps}")
    tokens = np.asarray(listed, dtype=np.int64).reshape(len(mask), steps)  # (B, steps)
    last = mask.shape[1] - 1 - mask[:, ::-1].astype(bool).argmax(axis=1)
    for step in range(steps):
        logits = reference.read(SeamKey("logits", step))
        at = logits[np.arange(len(mask)), last if step == 0 else -1]  # (B, V)
        chosen = tokens[:, step]
        if (chosen >= at.shape[1]).any() or (at[np.arange(len(mask)), chosen] < at.max(axis=1)).any():
            raise BundleError(f"the tokens of decode step {step + 1} are not the likeliest of its logits[{step}]")
        fed = reference.read(SeamKey("input_ids", step + 1))
        _same(f"the tokens of decode step {step + 1}", tokens[:, step : step + 1], f"input_ids[{step + 1}]", fed)


def _check_float(reference: BundleTrace, entry: Entry, floors: Floors, dtype: str) -> None:
    used = compared(reference, entry)
    rows = compared_rows(reference.read(entry.key), entry.token_axes, used)
    if not np.isfinite(rows).all():
        raise BundleError(f"its reference has NaN or Inf at {entry.key}")
    empty = ~rows.any(axis=1)
    if empty.all():
        raise BundleError(f"its reference is all zero at {entry.key}")
    # No single number of a row differs by more than the whole row. Floors are rounded up when they are stored.
    distances = floors.spread(entry)[used] * row_norms(rows.astype(np.float64))
    if (np.broadcast_to(floors.peaks(entry), used.shape)[used] > distances * (1 + 1e-6)).any():
        raise BundleError(f"its floors at {entry.key} have peaks that are larger than the distance of the whole row")
    if (floors.spread(entry)[used][empty] > 0).any():
        raise BundleError(f"its reference has a row of zeros at {entry.key}, but correct runs differ from it there")
    if ulp(floors.dtype(entry)) > ulp(dtype):
        raise BundleError(f"its floors at {entry.key} are of {floors.dtype(entry)}, which is coarser than {dtype}")


def _check_processor(case: BundleCase, reference: BundleTrace) -> None:
    check_expected(reference, _expected_of_processor(case, reference))
    hidden = reference.read(SeamKey(MASK.name, 0)) == 0  # (B, S)
    padding = reference.labels(label_key("tokens", 0)) == PADDING
    _same("the padding of its tokens", padding, "its attention mask", hidden)
    if case.record["model"] is None:
        return
    inputs = _inputs(case)
    for name, spec in _SHARED.items():
        if name in inputs.names:
            _same_input(inputs, name, reference, SeamKey(spec.name, 0))


def _expected_of_processor(case: BundleCase, reference: Trace) -> Sequence[Expected]:
    """Return the expected seams. The step of the pixels is the trace's own, if it is not too large."""
    expected = expected_processor_seams(case.count("image"), case.count("video"), image_step=1.0, video_step=1.0)
    own = []
    for item in expected:
        entry = reference.entries().get(item.key)
        if item.key.name.endswith(".patches") and entry is not None:
            if entry.unit > _LARGEST_STEP:
                raise BundleError(f"it counts {item.key} in steps of {entry.unit:g}, at most {_LARGEST_STEP:.3g}")
            item = replace(item, unit=entry.unit)
        own.append(item)
    return own


def _inputs(case: BundleCase) -> Inputs:
    inputs = case.inputs
    assert inputs is not None  # bundle.py checks that a case with the model stage has some
    return inputs


def _same_input(inputs: Inputs, name: str, reference: BundleTrace, key: SeamKey) -> None:
    """An input is what the reference was fed, except at padding, where it may be anything."""
    entry, given = reference.entries()[key], inputs.read(name)
    if given.shape != entry.shape:
        raise BundleError(f"{name} of {inputs.path.name} is {list(given.shape)}, {key} is {list(entry.shape)}")
    used = compared(reference, entry)
    mine, own = (compared_rows(array, entry.token_axes, used) for array in (given, reference.read(key)))
    if (mine != own).any():
        raise BundleError(
            f"{name} of {inputs.path.name} is not the reference's {key}: {int((mine != own).sum())} differ"
        )


def _same(what: str, mine: np.ndarray, other: str, theirs: np.ndarray) -> None:
    if mine.shape != theirs.shape or (mine != theirs).any():
        raise BundleError(f"{what} {list(mine.shape)} is not {other} {list(theirs.shape)}")
