"""Compilation of C sources with the machine's own compiler, once per version of source and compiler."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-march=native", "-fopenmp", "-shared", "-fPIC")


class CompilerError(Exception):
    """No compiler was found, or it failed; the message is one line."""


def compile_library(source: Path, *, level: str = "-O3", **definitions: str) -> ctypes.CDLL:
    """Compile a source and load it as a library, cached in ~/.cache/lambdanets or $XDG_CACHE_HOME/lambdanets.

    Where PyTorch uses the same OpenMP library, as on Linux, both share its threads.

    Args:
        source: C file.
        level: of the compiler's optimizations.
        **definitions: macros to define.

    Raises:
        CompilerError: the source can't be compiled or loaded.
    """
    # $CC may hold arguments, as in "ccache gcc".
    compiler = shlex.split(os.environ.get("CC", "")) or [*filter(shutil.which, ("cc", "gcc", "clang"))][:1]
    if not compiler:
        raise CompilerError("there is no C compiler (cc, gcc, clang or $CC)")
    command = [*compiler, level, *FLAGS, *(f"-D{name}={value}" for name, value in definitions.items())]
    try:
        # The predefined macros depend on the compiler's version and on the processor's instruction set.
        macros = run([*command, "-dM", "-E", "-x", "c", os.devnull])
        name = hashlib.sha256(source.read_bytes() + level.encode() + macros).hexdigest()[:16]
        library = cache_folder() / f"{source.stem}-{name}.so"
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                fresh = Path(folder) / library.name
                run([*command, "-o", str(fresh), str(source)])
                fresh.replace(library)  # at once: no other process loads an incomplete file
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError) as error:  # no such program, no home folder, a disk that is full or read-only
        raise CompilerError(f"{compiler[0]} can't be used: {error}") from error


def try_compile(source: Path) -> ctypes.CDLL | None:
    """Compile a source as `compile_library` does; None without a compiler."""
    try:
        return compile_library(source)
    except CompilerError:
        return None


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambdanets"


def run(command: list[str]) -> bytes:
    completed = subprocess.run(command, capture_output=True, check=False)
    if completed.returncode:
        message = completed.stderr.decode(errors="replace").strip().splitlines()
        raise CompilerError(f"{command[0]} fails: {message[0] if message else completed.returncode}")
    return completed.stdout
