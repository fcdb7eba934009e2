"""Launchers, by the environment variables that torchrun and SLURM set."""

import itertools
import os

import pytest
import torch
from omegaconf import OmegaConf

from lambdanets.distributed import launcher, local_workers, rendezvous
from lambdanets.distributed.rendezvous import was_restarted
from lambdanets.errors import UserError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "job-1", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "8"}


@pytest.fixture
def variables(monkeypatch):
    """Return a function that replaces the launchers' variables in the environment."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in TORCHRUN:
            monkeypatch.delenv(name)

    def set_variables(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("environment", "name", "rank", "world_size", "job_id"),
    [
        ({}, None, 0, 1, None),
        ({"LOCAL_RANK": "1"}, None, 1, 1, None),  # a local worker
        (TORCHRUN, "torchrun", 3, 4, "torchrun job-1"),
        (TORCHRUN | SRUN, "torchrun", 3, 4, "torchrun job-1"),  # torchrun started by srun
        (SRUN, "slurm", 2, 8, "slurm 17"),
        (SRUN | {"SLURM_NTASKS": "1"}, None, 0, 1, "slurm 17"),
        (SRUN | {"SLURM_STEP_ID": "4294967290"}, None, 0, 1, "slurm 17"),  # the shell of salloc
        ({"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}, None, 0, 1, "slurm 17_1"),
    ],
)
def test_launcher_and_rank(environment, name, rank, world_size, job_id, variables):
    variables(environment)
    assert launcher.detect_launcher() == name
    assert launcher.rank() == rank
    assert launcher.world_size() == world_size
    assert launcher.restartable_job_id() == job_id


def test_processes_that_would_train_on_their_own_are_refused(variables, tmp_path):
    variables(TORCHRUN)
    config = OmegaConf.create({"trainer": {"strategy": "auto"}})
    message = r"torchrun has started 4 processes, .*: add trainer=torchrun, or"
    with pytest.raises(UserError, match=message), local_workers.distributed_job("fit", config, tmp_path):
        pytest.fail("it trained")


def test_the_other_ranks_are_sent_home_where_there_was_no_job_for_them(variables, monkeypatch):
    variables(TORCHRUN | {"RANK": "0"})
    server, waits = torch.distributed.HashStore(), []
    monkeypatch.setattr(rendezvous, "meet", lambda timeout: (waits.append(timeout), (server, False))[1])
    monkeypatch.setattr(rendezvous, "job_counter", itertools.count())
    rendezvous.stop_workers()
    assert server.get("job/0") == b""
    assert [wait.total_seconds() for wait in waits] == [rendezvous.FAREWELL_S]
    variables({"WORLD_SIZE": "1"})
    rendezvous.stop_workers()
    assert len(waits) == 1


def test_torchrun_without_an_id_is_identified_by_its_agent(variables):
    variables(TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"})
    assert launcher.restartable_job_id() == f"torchrun {os.uname().nodename} {os.getppid()}"


def test_torchrun_without_an_id_in_a_slurm_job_keeps_the_jobs_name_when_requeued(variables):
    variables(TORCHRUN | {"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "17"})
    assert launcher.restartable_job_id() == "slurm 17"


def test_torchrun_in_a_requeued_slurm_job_resumes(variables):
    variables(TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"})
    assert was_restarted()


@pytest.mark.parametrize(("value", "tasks"), [("8", 8), ("8(x2)", 8), ("16(x2),4", 16), (None, 1)])
def test_slurm_tasks_per_node(value, tasks, variables):
    variables({} if value is None else {"SLURM_STEP_TASKS_PER_NODE": value})
    assert launcher.slurm_tasks() == tasks
