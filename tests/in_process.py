"""Run the command line in this process: torch is imported once, so that a command takes a second and not ten."""

import contextlib
import hashlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from lambdanets import cli
from lambdanets.runs import find, refusal

# A network that trains in a second, without images for TensorBoard.
SMALL = (
    "model=compact", "model.width=0.125", "mixer=conv", "trainer=cpu", "callbacks=scalars",
    "trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    "trainer.enable_progress_bar=false",
)  # fmt: skip


class Done(NamedTuple):
    """A command that has ended; `text` is its output and its error messages."""

    code: int
    text: str


def invoke(*arguments, cwd):
    """Run `run.py …` in cwd. A traceback, which is a defect, fails the test."""
    output = io.StringIO()
    argv, place, environment = sys.argv, Path.cwd(), dict(os.environ)
    level = logging.getLogger().level
    sys.argv = ["run.py", *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            GlobalHydra.instance().clear()
            try:
                code = cli.main()
            except SystemExit as error:
                code = error.code or 0
    finally:
        sys.argv = argv
        os.chdir(place)
        os.environ.clear()
        os.environ.update(environment)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        find.find_run.cache_clear()
        refusal.new_folders.clear()
        refusal.former_files.clear()
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, logging.StreamHandler | logging.handlers.MemoryHandler):
                logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    text = output.getvalue()
    assert "Traceback" not in text, text
    return Done(code, text)


def run(*arguments, cwd, code=0):
    """Run `run.py …` in cwd as on a machine without a GPU, and check its exit code."""
    no_gpu = mock.patch("torch.cuda.is_available", return_value=False)
    with no_gpu, mock.patch.dict(os.environ, COLUMNS="200"):
        done = invoke(*arguments, cwd=cwd)
    assert done.code == code, done.text
    return done


def tree(folder):
    """Return a hash of the content of each file below a folder, by path; of a folder, None."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


def refusal_of(*arguments, cwd):
    """Return the output of `run.py …`, which fails with an error message."""
    done = invoke(*arguments, cwd=cwd)
    assert done.code in (1, 2), done.text
    assert "error: " in done.text
    return done.text
