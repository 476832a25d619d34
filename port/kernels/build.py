"""Compiles ``native.cpp`` with the machine's own C++ compiler, once, and keeps the result in the user's cache.

A library from the cache is loaded only if nobody but the user could have put it there. Nothing that a checkpoint or a
trace contains decides what is compiled or loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import platformdirs
import torch

COMPILER_VARIABLE, FOLDER_VARIABLE = "QWEN3VL_PARITY_CXX", "QWEN3VL_PARITY_CACHE"
_COMPILERS = ("g++", "c++", "clang++")
# No -ffast-math: it changes how the whole process treats tiny numbers, and drops checks for NaN.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_SECONDS = 120


class NoKernels(Exception):
    """The kernels cannot be compiled or loaded here; the message says why."""


def compiled() -> Path:
    """The path of the library for this machine, compiled if there is none yet (some 3 seconds). Raises NoKernels."""
    if sys.platform != "linux":
        raise NoKernels(f"they are compiled on Linux only, and this is {sys.platform}")
    compiler = _compiler()
    source = files("port.kernels").joinpath("native.cpp").read_bytes()
    threads = _thread_library()
    told = [compiler, compiler_version(compiler), *FLAGS, str(threads), torch.__version__, _processor()]
    key = hashlib.sha256("\0".join(told).encode() + b"\0" + source).hexdigest()[:32]
    library = _private_folder() / f"{key}.so"
    if not library.exists():
        _compile(compiler, source, threads, library)
    _check_owner(library)
    return library


def _compiler() -> str:
    wanted = os.environ.get(COMPILER_VARIABLE)
    for name in (wanted,) if wanted else _COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise NoKernels(f"no C++ compiler was found ({wanted or ', '.join(_COMPILERS)})")


@cache
def compiler_version(compiler: str) -> str:
    """The first line of what the compiler says about itself."""
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernels(f"{compiler} does not run: {error}") from None
    return done.stdout.splitlines()[0] if done.stdout else compiler


def _thread_library() -> Path:
    """Torch's own OpenMP library. With another one, two sets of threads would get in each other's way."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    found = found or sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    if not found:
        raise NoKernels("this torch has no libgomp of its own to share threads with")
    return found[0]


def _processor() -> str:
    """The processor and what it can do; a folder may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])


def _private_folder() -> Path:
    """The folder for compiled kernels, which only the user may write. Made if it is not there."""
    given = os.environ.get(FOLDER_VARIABLE)
    parent = Path(given) if given else Path(platformdirs.user_cache_dir("qwen3vl-parity", appauthor=False))
    folder = parent / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NoKernels(f"{folder} cannot be made: {error}; set {FOLDER_VARIABLE} to a folder of your own") from None
    _check_owner(folder)
    return folder


def _check_owner(path: Path) -> None:
    try:
        found = path.lstat()
    except OSError as error:
        raise NoKernels(f"{path} cannot be read: {error}") from None
    if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise NoKernels(
            f"{path} could have been written by others (owner {found.st_uid}, mode {found.st_mode & 0o777:o}, "
            f"you are {os.getuid()}); remove it or make it yours alone"
        )


def _compile(compiler: str, source: bytes, threads: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, out = Path(folder) / "native.cpp", Path(folder) / "native.so"
        code.write_bytes(source)
        command = [compiler, *FLAGS, str(code), "-o", str(out), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoKernels(f"{compiler} does not run: {error}") from None
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise NoKernels(f"{compiler} ended with {done.returncode}: {last[0]}")
        out.chmod(0o500)
        os.replace(out, library)
