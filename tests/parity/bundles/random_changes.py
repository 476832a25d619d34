"""Random changes of a bundle and of traces: none may turn a wrong engine's trace into PARITY.

    python -m tests.parity.bundles.random_changes --count 100000 --seed 0

Four kinds: bytes of a bundle (which must be refused), a forger's changes of JSON and numbers with new digests, bytes of
a wrong engine's trace, and numbers of a right engine's trace beyond its gates. `nox -s tampering` runs it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from parity.bundles.bundle import Bundle
from parity.bundles.judging import Selection, judge_folder, total
from parity.bundles.making import Recipe, make_bundle
from parity.cases.case import Case
from parity.core.bare import BareTrace
from parity.core.errors import ParityError
from parity.core.trace import PADDING, Entry
from parity.core.verdict import Verdict
from parity.runs.case_run import run_case
from parity.runs.loader import Loader
from parity.runs.store import TraceStore
from tests.parity.bundles.samples import forge

SHARES = {"bytes of the bundle": 0.7, "forged": 0.15, "bytes of a wrong trace": 0.1, "numbers beyond the gate": 0.05}
PASSED, REFUSED = "passed", "refused"
_CASE = Case("small", "a short prompt", 1, rows=(("Why?",),), decode_steps=1)
_VALUES: Sequence[Any] = (0, 1, -1, 2**40, 1e300, 0.5, "", "x", "float64", "exact", "steps", None, True, [], {})


@dataclass(frozen=True)
class Place:
    """Folders: the bundle, the right trace (a folder of the port) and a wrong one with a fault in one layer."""

    bundle: Path
    right: Path
    wrong: Path


def prepare(root: Path) -> Place:
    """Make the bundle of a small case, the port's trace, and that of a port with a fault."""
    torch.set_num_threads(1)
    loader, place = (
        Loader(root / "cache"),
        Place(root / "bundle", root / "right" / "subject", root / "wrong" / "subject"),
    )
    place.bundle.mkdir()
    make_bundle(place.bundle, Recipe([_CASE], ["float32"]), loader)
    run_case(_CASE, loader, dtype="float32", store=TraceStore(root / "right"))
    folder = loader.checkpoint(_CASE.checkpoint)
    model = loader.port(folder, "float32")
    with torch.no_grad():
        model.get_parameter("model.language_model.layers.2.self_attn.o_proj.weight").mul_(1.001)
    run_case(_CASE, loader, dtype="float32", store=TraceStore(root / "wrong"))
    assert judged(place.bundle, place.right) == "PARITY"
    assert judged(place.bundle, place.wrong) == "DIVERGED"
    return place


def judged(bundle: Path, trace: Path) -> str:
    """Return the verdict of `parity judge` on the model stage, or REFUSED for an error that it reports."""
    try:
        verdict, _ = total(judge_folder(Bundle(bundle), trace, Selection(stages=("model",))))
    except ParityError:
        return REFUSED
    return verdict.name


def other_bytes(rng: np.random.Generator, held: bytes) -> bytes:
    """Return the bytes with a random change: one bit, or a piece overwritten, cut out, doubled or put in."""
    at = int(rng.integers(len(held)))
    length = int(rng.integers(1, 64))
    kind = int(rng.integers(6))
    if kind == 0:
        return held[:at] + bytes([held[at] ^ (1 << int(rng.integers(8)))]) + held[at + 1 :]
    if kind == 1:
        return held[:at] + rng.bytes(length) + held[at + length :]
    if kind == 2:
        return held[:at] + held[at + length :]
    if kind == 3:
        return held[: at + length] + held[at:]
    if kind == 4:
        return held[:at]
    return held[:at] + rng.bytes(length) + held[at:]


def change_json(rng: np.random.Generator, document: Any) -> None:
    """Change one random place of a parsed JSON document: another value, one missing, or one doubled."""
    node: Any = document
    parents: list[tuple[Any, Any]] = []
    while isinstance(node, (dict, list)) and node and (not parents or rng.random() < 0.85):
        keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        parents.append((node, keys[int(rng.integers(len(keys)))]))
        node = node[parents[-1][1]]
    holder, key = parents[-1]
    kind = int(rng.integers(4))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.append(node)
    elif kind == 2 and isinstance(node, (int, float)) and not isinstance(node, bool):
        holder[key] = node * int(rng.integers(2, 5)) + int(rng.integers(-2, 3))
    else:
        holder[key] = _VALUES[int(rng.integers(len(_VALUES)))]


def change_tensors(rng: np.random.Generator, path: Path) -> None:
    """Change one tensor of a file: scaled, shuffled, cleared, cut, or with one number changed."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as handle:
        metadata = handle.metadata()
    held = load_file(path)
    name = str(rng.choice(sorted(held)))
    array = held[name].copy()
    flat = array.reshape(-1)
    kind = int(rng.integers(5))
    if kind == 0:
        array = (array * rng.choice([0, 2, 10, 1000, -1])).astype(array.dtype)
    elif kind == 1:
        rng.shuffle(flat)
    elif kind == 2:
        array = np.zeros_like(array)
    elif kind == 3 and len(array) > 1:
        array = array[:-1].copy()
    elif flat.size:
        flat[int(rng.integers(flat.size))] = rng.choice([0, 1, 7, 100])
    held[name] = array
    save_file(held, path, metadata=metadata)


class Changes:
    """A working copy, in which each change is undone after it was judged."""

    def __init__(self, place: Place, root: Path) -> None:
        self.bundle = Path(shutil.copytree(place.bundle, root / "bundle"))
        self.wrong = Path(shutil.copytree(place.wrong, root / "wrong"))
        self.place, self.root = place, root
        self.files = sorted(path for path in self.bundle.rglob("*") if path.is_file())
        self.listing = self.bundle / "bundle.json"

    def bytes_of_bundle(self, rng: np.random.Generator) -> str:
        path = self.files[int(rng.integers(len(self.files)))]
        held = path.read_bytes()
        changed = other_bytes(rng, held)
        if changed == held or _same_json(held, changed):
            return "no change"
        return self._tried(path, changed, lambda: judged(self.bundle, self.place.wrong))

    def forged(self, rng: np.random.Generator) -> str:
        """Change JSON or numbers and make new digests; the trace is the wrong engine's."""
        before = {path: path.read_bytes() for path in self.files}
        for _ in range(int(rng.integers(1, 4))):
            path = self.files[int(rng.integers(len(self.files)))]
            try:
                if path.suffix == ".json":
                    document = json.loads(path.read_text(encoding="utf-8"))
                    change_json(rng, document)
                    path.write_text(json.dumps(document), encoding="utf-8")
                elif path.suffix == ".safetensors":
                    change_tensors(rng, path)
            except (TypeError, OverflowError):
                pass  # such a value cannot be changed this way
        try:
            forge(self.bundle)
            return judged(self.bundle, self.place.wrong)
        except (KeyError, TypeError, ValueError, AttributeError):
            return "no bundle"  # the listing is no object any more, so that no digest can be made
        finally:
            for path, held in before.items():
                path.write_bytes(held)

    def bytes_of_trace(self, rng: np.random.Generator) -> str:
        files = sorted(path for path in self.wrong.rglob("*") if path.is_file())
        path = files[int(rng.integers(len(files)))]
        return self._tried(path, other_bytes(rng, path.read_bytes()), lambda: judged(self.place.bundle, self.wrong))

    def numbers(self, rng: np.random.Generator) -> str:
        """Change one number of the right trace by more than any gate; as a bare trace."""
        bundle = Bundle(self.place.bundle)
        reference = bundle.cases[_CASE.name].reference("model", "float32")
        held = _bare(self.place.right)
        entries = list(reference)
        entry = entries[int(rng.integers(len(entries)))]
        name = f"{entry.key.name}#{entry.key.call}"
        held[name] = _beyond(rng, held[name], entry, reference.labels(entry.rows) if entry.rows else None)
        path = self.root / "numbers.safetensors"
        save_file(held, path)
        assert BareTrace(path).entries()
        return judged(self.place.bundle, path)

    def _tried(self, path: Path, changed: bytes, judge: Callable[[], str]) -> str:
        held = path.read_bytes()
        path.write_bytes(changed)
        try:
            return judge()
        finally:
            path.write_bytes(held)


def _same_json(held: bytes, changed: bytes) -> bool:
    """Whether two files are the same JSON, for example with another space."""
    try:
        return bool(json.loads(held) == json.loads(changed))
    except ValueError:
        return False


def _bare(folder: Path) -> dict[str, np.ndarray]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {seam["file"]: load_file(folder / seam["file"]) for seam in manifest["seams"]}
    return {f"{seam['name']}#{seam['call']}": files[seam["file"]][seam["tensor"]] for seam in manifest["seams"]}


def _beyond(rng: np.random.Generator, array: np.ndarray, entry: Entry, kinds: np.ndarray | None) -> np.ndarray:
    changed = np.ascontiguousarray(array).copy()
    rows = np.moveaxis(changed, entry.token_axes, range(len(entry.token_axes)))  # a view
    used = np.argwhere(np.ones(entry.token_shape, bool) if kinds is None else kinds != PADDING)
    row = tuple(int(index) for index in used[int(rng.integers(len(used)))])
    place = row + tuple(int(rng.integers(size)) for size in rows.shape[len(row) :])
    if changed.dtype.kind == "f":
        rows[place] += (1 + rng.random()) * 1e-2 * (np.linalg.norm(rows[row].astype(np.float64)) + 1e-3)
    else:
        rows[place] = not rows[place] if changed.dtype.kind == "b" else rows[place] + 1
    return changed


def work(place: Place, task: tuple[str, int, int]) -> Counter[tuple[str, str]]:
    """Try ``count`` changes of a kind with a seed. Returns how often each kind had each outcome."""
    kind, count, seed = task
    torch.set_num_threads(1)
    rng, found = np.random.default_rng(seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        changes = Changes(place, Path(folder))
        tried = {
            "bytes of the bundle": changes.bytes_of_bundle,
            "forged": changes.forged,
            "bytes of a wrong trace": changes.bytes_of_trace,
            "numbers beyond the gate": changes.numbers,
        }[kind]
        for _ in range(count):
            found[kind, tried(rng)] += 1
    return found


def run(count: int, seed: int, workers: int, root: Path) -> Counter[tuple[str, str]]:
    """Try ``count`` random changes in all, in several processes."""
    place, tasks = prepare(root), []
    size = 250
    for at, (kind, share) in enumerate(SHARES.items()):
        left = round(count * share)
        for part in range(-(-left // size)):
            tasks.append((kind, min(size, left - part * size), seed * 1_000_003 + at * 100_003 + part))
    if workers == 1:
        return sum((work(place, task) for task in tasks), Counter[tuple[str, str]]())
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(partial(work, place), tasks), Counter[tuple[str, str]]())


def passed(found: Counter[tuple[str, str]]) -> int:
    return sum(count for (_, outcome), count in found.items() if outcome == Verdict.PARITY.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        found = run(given.count, given.seed, given.workers, Path(root))
    for (kind, outcome), count in sorted(found.items()):
        print(f"{kind}: {outcome} {count}")
    print(f"{found.total()} changes in {time.perf_counter() - start:.0f} s, {passed(found)} passed")
    raise SystemExit(1 if passed(found) else 0)


if __name__ == "__main__":
    main()
