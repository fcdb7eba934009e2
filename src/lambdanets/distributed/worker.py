"""A worker of a local distributed training: `python -m lambdanets.distributed.worker`."""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from hydra.utils import get_method
from omegaconf import OmegaConf

from lambdanets.distributed.launcher import rank
from lambdanets.distributed.local_workers import JOB_DIR_ENV, JOB_FILE
from lambdanets.distributed.threads import set_threads
from lambdanets.error_messages import error_message


def main() -> int:
    """Run the job described in job.json; write a user error to error-<rank>.

    Returns:
        The exit code: 0, 1 for a defect of the program, or 2 for a user error.
    """
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    job_dir = Path(os.environ[JOB_DIR_ENV])
    job = json.loads((job_dir / JOB_FILE).read_text(encoding="utf-8"))
    config = OmegaConf.create(job["config"])
    try:
        run = get_method(config.job._target_)
        set_threads()
        run(config, Path(job["folder"]))
    except Exception as error:
        message = error_message(error)
        if message is None:
            traceback.print_exc()
            return 1
        (job_dir / f"error-{rank()}").write_text(message, encoding="utf-8")
        return 2
    return 0


def exit_with_parent(parent: int) -> None:
    """Exit this process when its parent is gone; it may wait for the parent forever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
