"""The real command line in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments):
    return [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]


def environment():
    # Two tests run side by side on a small machine; one thread each also makes sums reproducible.
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def run(*arguments, cwd, code=0, timeout=300, **variables):
    """Runs `python run.py …` in cwd, without a GPU, with these variables of the environment."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done
