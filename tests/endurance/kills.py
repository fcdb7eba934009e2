"""Kills a run again and again, and compares what it comes to with the run that was never stopped.

    python -m tests.endurance.kills FOLDER 20 data=cifar10 …

trains in FOLDER/whole without a stop, then in FOLDER/killed with that many SIGKILLs, of which every second one falls
into the writing of a checkpoint; prints a line a kill, and ends with an error where the two runs differ.
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

from tests.command import command, environment, run

# What a run's clock says is no part of what it computes.
TIMED = "speed/"


def one_run(place):
    (folder,) = place.glob("outputs/*/*")
    return folder


def killed(place, arguments, kills, seed=0, spread=2.0):
    """Runs until it is done, with that many kills at random moments, at most `spread` seconds into training."""
    draw = random.Random(seed)
    count = 0
    while count < kills:
        started = list(place.glob("outputs/*/*"))
        size = (started[0] / "run.log").stat().st_size if started else 0
        process = subprocess.Popen(
            command(*arguments, *(["ckpt=last"] if started else [])),
            cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:  # until it says what it is about to train
            log = next(place.glob("outputs/*/*/run.log"), None)
            if log is not None and "M parameters" in log.read_text()[size:]:
                break
            time.sleep(0.02)
        wait_until(time.monotonic() + draw.uniform(0.0, spread), process)
        writing = ""
        if count % 2:
            while process.poll() is None and not writing:
                found = list(place.glob("outputs/*/*/checkpoints/.*.ckpt*"))
                writing = f" while {found[0].name.partition('.ckpt')[0]}.ckpt was written" if found else ""
                time.sleep(0.0005)
        if process.poll() is not None:
            print(f"the run was done after {count} kills", flush=True)
            assert process.returncode == 0
            return count
        process.send_signal(signal.SIGKILL)
        process.wait()
        count += 1
        print(f"kill {count}: {resumed(one_run(place))}{writing}", flush=True)
    run(*arguments, "ckpt=last", cwd=place, timeout=3600)
    return count


def wait_until(moment, process):
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.01)


def resumed(folder):
    lines = [line for line in (folder / "run.log").read_text().splitlines() if "going on from" in line]
    return lines[-1].rpartition("] ")[2] if lines else "at its first start"


def differences(whole, other, tags=("train/loss", "val/top1", "train/top1")):
    """What differs between two runs' last checkpoints and logs."""
    found = []
    checkpoints = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (whole, other)]
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state", "loops"):
        first, second = (checkpoint.get(key) for checkpoint in checkpoints)
        found += [key] if not same(first, second) else []
    rows = [list(numbers(path)) for path in (whole, other)]
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it says what it purges
    found += ["metrics.csv"] if rows[0] != rows[1] else []
    for tag in tags:
        events = []
        for path in (whole, other):
            reader = EventAccumulator(str(path), size_guidance={"scalars": 0})
            reader.Reload()
            events.append([(event.step, event.value) for event in reader.Scalars(tag)])
        found += [f"TensorBoard's {tag}"] if events[0] != events[1] else []
    return found


def numbers(folder):
    """A run's rows without what its clock says; each step and epoch once."""
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kept = {key: value for key, value in row.items() if value and not key.startswith(TIMED)}
            if kept.keys() - {"step", "epoch"}:
                yield tuple(sorted(kept.items()))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def main(place, kills, arguments):
    whole, other = place / "whole", place / "killed"
    for folder in (whole, other):
        folder.mkdir(parents=True)
    start = time.monotonic()
    run(*arguments, cwd=whole, timeout=3600)
    seconds = time.monotonic() - start
    print(f"never stopped: {seconds:.0f} s", flush=True)
    count = killed(other, arguments, kills, spread=seconds / 8)  # so that the run moves on between kills
    found = differences(one_run(whole), one_run(other))
    print(f"{count} kills; " + (f"differs: {', '.join(found)}" if found else "weights, states and logs are equal"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
