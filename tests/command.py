"""Run the real command line in a temporary folder."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments):
    return [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]


def environment():
    # Two tests run side by side on a small machine; one thread each also makes sums reproducible.
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def run(*arguments, cwd, code=0, timeout=300, **variables):
    """Run `python run.py …` in cwd, without a GPU and with these environment variables; check its exit code."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment() | variables, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def start_training(*arguments, cwd):
    """Start `python run.py …` in cwd and return the process once it has written its first checkpoint."""
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not list(cwd.glob("outputs/*/*/checkpoints/last.ckpt")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.02)
    return process


def single_run_folder(cwd):
    """Return the folder of the only run in cwd."""
    (folder,) = cwd.glob("outputs/*/*")
    return folder


def working_dirs():
    """Return the working directory of each process of this machine, by process id."""
    directories = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            directories[int(process.name)] = Path(os.readlink(process / "cwd"))
    return directories
