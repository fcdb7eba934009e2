"""Two nodes of torchrun on two loopback addresses; the job resumes after a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT, environment, single_run_folder


def start_node(index, cwd, *arguments, port, nodes=2, processes=1):
    """Start the torchrun agent of one node, with the address 127.0.0.1 + index."""
    agent = (
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={processes}",
        "--max-restarts=2",
        f"--rdzv-id=job-{port}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        f"--local-addr=127.0.0.{index + 1}",
    )  # fmt: skip
    with (cwd / f"node-{index}.log").open("a") as log:
        return subprocess.Popen(
            [*agent, str(ROOT / "run.py"), *arguments, "trainer.enable_progress_bar=false", "trainer=torchrun"],
            cwd=cwd, env=environment(), stdout=log, stderr=log,
        )  # fmt: skip


def wait_for(condition, agents, cwd, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        logs = "".join(file.read_text() for file in cwd.glob("node-*.log"))
        assert time.monotonic() < deadline, logs
        assert all(agent.poll() in (None, 0) for agent in agents), logs
        time.sleep(0.1)


@pytest.fixture
def agents():
    """Collect the agents that a test starts, and kill them and their workers at its end."""
    started = []
    yield started
    for agent in started:
        if agent.poll() is None:
            agent.send_signal(signal.SIGSTOP)  # a stopped agent starts no further workers
            for worker in worker_ids(agent):
                os.killpg(worker, signal.SIGKILL)  # torchrun makes each worker the leader of a process group
            agent.kill()
            agent.wait()


def worker_ids(agent):
    """Return the process ids of an agent's workers."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(agent.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "run.py" in line]


def find_rank(rank, agents):
    """Return the process id of the worker with a rank."""
    (worker,) = [
        worker
        for agent in agents
        for worker in worker_ids(agent)
        if f"RANK={rank}".encode() in Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    ]
    return worker


def resume_lines(folder):
    return [line for line in (folder / "run.log").read_text().splitlines() if "resuming from" in line]


def test_two_nodes_run_a_sweep(tmp_path, agents):
    grid = ("--multirun", "mixer=conv,lambda", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    agents += [start_node(index, tmp_path, *grid, port=29611) for index in (0, 1)]
    wait_for(lambda: all(agent.poll() == 0 for agent in agents), agents, tmp_path)
    metrics = [json.loads(file.read_text()) for file in tmp_path.glob("multirun/*/*/metrics.json")]
    assert len(metrics) == 2
    assert len(list(tmp_path.glob("multirun/*"))) == 1
    assert not list(tmp_path.glob("outputs"))
    print("test/top1 of two runs on two nodes:", *[round(scores["test/top1"], 4) for scores in metrics])


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_killed_worker_is_restarted_and_the_job_resumes(nodes, tmp_path, agents):
    options = ("mixer=conv", "trainer.max_epochs=12", "checkpoint.every_n_steps=4")
    for index in range(nodes):
        agents.append(start_node(index, tmp_path, *options, port=29612 + nodes, nodes=nodes, processes=2 // nodes))
    wait_for(lambda: list(tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")), agents, tmp_path)
    os.kill(find_rank(1, agents), signal.SIGKILL)
    start = time.monotonic()
    folder = single_run_folder(tmp_path)
    wait_for(lambda: resume_lines(folder), agents, tmp_path)
    print(f"resumed {time.monotonic() - start:.1f} s after one of two workers was killed")
    wait_for(lambda: all(agent.poll() == 0 for agent in agents), agents, tmp_path)
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 12
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
    print(*resume_lines(folder), sep="\n")
