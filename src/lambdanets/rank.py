"""One more process of a training that `jobs.ranks` started: `python -m lambdanets.rank`."""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from hydra.utils import get_method
from omegaconf import OmegaConf

from lambdanets.explain import explain
from lambdanets.jobs import ranks


def main() -> int:
    """Does the job that lies on the desk; leaves there what is to be said of a mistake."""
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    desk = Path(os.environ[ranks.DESK])
    job = json.loads((desk / ranks.JOB).read_text())
    config = OmegaConf.create(job["config"])
    try:
        get_method(config.job._target_)(config, Path(job["folder"]))
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            traceback.print_exc()
            return 1
        (desk / f"error-{ranks.rank()}").write_text(sentence)
        return 2
    return 0


def end_with_parent(parent: int) -> None:
    """A process whose parent is gone may wait for it for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
