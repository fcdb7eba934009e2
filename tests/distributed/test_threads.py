"""Threads of a process, by the environment that launchers set; the expected numbers are counted by hand."""

import os
import re
import subprocess
import sys

import pytest
import torch

from lambdanets.distributed import threads
from tests.command import ROOT, environment, run

VARIABLES = ("OMP_NUM_THREADS", "LAMBDANETS_OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
SRUN = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def variables(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in VARIABLES:
            monkeypatch.delenv(name)
    yield lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("cores", "values", "count"),
    [
        (8, {}, 8),
        (8, {"LOCAL_WORLD_SIZE": "2"}, 4),  # local workers
        (8, {"LOCAL_WORLD_SIZE": "3"}, 2),
        (2, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (8, TORCHRUN, 2),
        (8, {"OMP_NUM_THREADS": "4"}, 4),  # of joblib, for two runs at a time
        (8, {"OMP_NUM_THREADS": "4", "LOCAL_WORLD_SIZE": "2"}, 2),  # and two processes per run
        (16, SRUN | {"SLURM_CPUS_ON_NODE": "8"}, 4),  # the tasks share half of the node
        (4, SRUN | {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4),  # bound to four cores each
        (16, SRUN | {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}, 2),
        (16, {"SLURM_JOB_ID": "17", "SLURM_CPUS_ON_NODE": "6", "LOCAL_WORLD_SIZE": "2"}, 3),  # in the batch script
    ],
)
def test_threads_are_the_share_of_the_usable_cores(cores, values, count, variables):
    variables({"LAMBDANETS_OMP_NUM_THREADS": ""} | values)
    assert threads.count_threads(cores) == count


def test_a_users_own_number_wins(variables, monkeypatch):
    variables({"OMP_NUM_THREADS": "3", "LOCAL_WORLD_SIZE": "2", threads.USER_THREADS_ENV: ""})
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    threads.record_user_threads()
    assert threads.set_threads() == "3 threads of 8 cores, for each of 2 processes, set by OMP_NUM_THREADS"
    assert torch.get_num_threads() == 3


def test_the_number_that_torchrun_sets_is_not_the_users(variables, monkeypatch):
    code = (
        "import os; from lambdanets.distributed.threads import record_user_threads; record_user_threads(); "
        "print('user:', os.environ['LAMBDANETS_OMP_NUM_THREADS'])"
    )
    agent = (
        "import os, subprocess, sys; os.environ['OMP_NUM_THREADS'] = '1'; os.environ['TORCHELASTIC_RUN_ID'] = '1'; "
        f'subprocess.run([sys.executable, "-c", "{code}"])'
    )
    for given, recorded in (({}, "user: "), ({"OMP_NUM_THREADS": "1"}, "user: 1")):
        own = os.environ | {"PYTHONPATH": str(ROOT / "src")} | given
        done = subprocess.run([sys.executable, "-c", agent], env=own, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == recorded.strip(), done.stderr


def test_two_processes_share_the_cores_and_the_log_says_so(tmp_path, monkeypatch):
    # The command is run as by a user who sets nothing.
    unset = {name: value for name, value in environment().items() if name not in VARIABLES}
    monkeypatch.setattr("tests.command.environment", lambda: unset)
    limits = (f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test"))
    options = ("trainer=ddp", "trainer.devices=2", "mixer=conv", "trainer.max_epochs=1")
    done = run(*options, *limits, "trainer.enable_progress_bar=false", cwd=tmp_path)
    cores = len(os.sched_getaffinity(0))
    match = re.search(r"(\d+) threads? of (\d+) cores?, for each of 2 processes", done.stdout)
    assert match, done.stdout
    assert int(match[2]) <= cores
    assert int(match[1]) == max(1, int(match[2]) // 2)
