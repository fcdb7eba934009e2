"""Compiles a C source with the machine's own compiler, once for each version of both."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


class CompilerError(Exception):
    """There is no compiler, or it refused: the message says which, in one sentence."""


def compile_library(source: Path, **definitions: str) -> ctypes.CDLL:
    """The source as a library. It is kept in ~/.cache/lambdanets, or $XDG_CACHE_HOME/lambdanets.

    OpenMP is PyTorch's where both use the same library, as on Linux: then they share its threads.

    Raises:
        CompilerError: it can't be compiled or loaded here.
    """
    # $CC may hold arguments, as in "ccache gcc".
    compiler = shlex.split(os.environ.get("CC", "")) or [*filter(shutil.which, ("cc", "gcc", "clang"))][:1]
    if not compiler:
        raise CompilerError("there is no C compiler (cc, gcc, clang or $CC)")
    command = [*compiler, *FLAGS, *(f"-D{name}={value}" for name, value in definitions.items())]
    try:
        # What a compiler predefines tells its version and the processor's abilities.
        macros = run([*command, "-dM", "-E", "-x", "c", os.devnull])
        name = hashlib.sha256(source.read_bytes() + macros).hexdigest()[:16]
        library = cache() / f"{source.stem}-{name}.so"
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as folder:
                fresh = Path(folder) / library.name
                run([*command, "-o", str(fresh), str(source)])
                fresh.replace(library)  # so that no other process ever loads half of it
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError) as error:  # no such program, no home, a disk that is full or read-only
        raise CompilerError(f"{compiler[0]} can't be used: {error}") from error


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambdanets"


def run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines()
        raise CompilerError(f"{command[0]} fails: {message[0] if message else done.returncode}")
    return done.stdout
