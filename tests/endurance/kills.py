"""Kill a run again and again, and compare its result with that of a run that was never stopped.

    python -m tests.endurance.kills FOLDER 20 data=cifar10 …

trains in FOLDER/whole without a stop, then in FOLDER/killed with 20 SIGKILLs. Every second kill falls into the writing
of a checkpoint. Prints a line per kill. The exit code is 1 if the two runs differ.
"""

import csv
import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command import command, environment, run, single_run_folder

# Metrics that depend on the clock.
TIMED = "speed/"


def kill_repeatedly(cwd, arguments, kills, seed=0, spread=2.0):
    """Run a training to its end, with kills at random moments within `spread` seconds after its start.

    Returns:
        The number of kills; fewer than asked for if the training ended before.
    """
    generator = random.Random(seed)
    count = 0
    while count < kills:
        folders = list(cwd.glob("outputs/*/*"))
        log_size = (folders[0] / "run.log").stat().st_size if folders else 0
        process = subprocess.Popen(
            command(*arguments, *(["ckpt=last"] if folders else [])),
            cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:  # until the log reports the start of training
            log = next(cwd.glob("outputs/*/*/run.log"), None)
            if log is not None and "M parameters" in log.read_text()[log_size:]:
                break
            time.sleep(0.02)
        wait_until(time.monotonic() + generator.uniform(0.0, spread), process)
        writing = ""
        if count % 2:
            while process.poll() is None and not writing:
                temporary = list(cwd.glob("outputs/*/*/checkpoints/.*.ckpt*"))
                writing = " while a checkpoint was written" if temporary else ""
                time.sleep(0.0005)
        if process.poll() is not None:
            print(f"the run was done after {count} kills", flush=True)
            assert process.returncode == 0
            return count
        process.send_signal(signal.SIGKILL)
        process.wait()
        count += 1
        print(f"kill {count}: {last_resume(single_run_folder(cwd))}{writing}", flush=True)
    run(*arguments, "ckpt=last", cwd=cwd, timeout=3600)
    return count


def wait_until(moment, process):
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.01)


def last_resume(folder):
    """Return the log's line on the checkpoint that a run resumed from."""
    lines = [line for line in (folder / "run.log").read_text().splitlines() if "resuming from" in line]
    return lines[-1].rpartition("] ")[2] if lines else "at its first start"


def compare_runs(whole, other, tags=("train/loss", "val/top1", "train/top1")):
    """Return the names of the parts of last.ckpt and of the logs that differ between two runs."""
    differences = []
    checkpoints = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (whole, other)]
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state", "loops"):
        first, second = (checkpoint.get(key) for checkpoint in checkpoints)
        differences += [key] if not is_equal(first, second) else []
    rows = [list(logged_rows(path)) for path in (whole, other)]
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns about what it purges
    differences += ["metrics.csv"] if rows[0] != rows[1] else []
    for tag in tags:
        events = []
        for path in (whole, other):
            reader = EventAccumulator(str(path), size_guidance={"scalars": 0})
            reader.Reload()
            events.append([(event.step, event.value) for event in reader.Scalars(tag)])
        differences += [f"TensorBoard's {tag}"] if events[0] != events[1] else []
    return differences


def logged_rows(folder):
    """Iterate over a run's rows of metrics.csv without timings."""
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            row = {key: value for key, value in row.items() if value and not key.startswith(TIMED)}
            if row.keys() - {"step", "epoch"}:
                yield tuple(sorted(row.items()))


def is_equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return a == b


def main(folder, kills, arguments):
    whole, killed = folder / "whole", folder / "killed"
    for cwd in (whole, killed):
        cwd.mkdir(parents=True)
    start = time.monotonic()
    run(*arguments, cwd=whole, timeout=3600)
    seconds = time.monotonic() - start
    print(f"never stopped: {seconds:.0f} s", flush=True)
    count = kill_repeatedly(killed, arguments, kills, spread=seconds / 8)  # short enough for progress between kills
    differences = compare_runs(single_run_folder(whole), single_run_folder(killed))
    result = f"differs: {', '.join(differences)}" if differences else "weights, states and logs are equal"
    print(f"{count} kills; {result}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
