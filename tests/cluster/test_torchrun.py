"""Two nodes of torchrun on two loopback addresses; a node whose worker is killed goes on from the last checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT, environment
from tests.endurance.kills import one_run


def node(number, place, *arguments, port, nodes=2, each=1):
    """One node's agent. The first one's address is 127.0.0.1, the second one's 127.0.0.2."""
    agent = (
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}",
        "--max-restarts=2",
        f"--rdzv-id=job-{port}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
        f"--local-addr=127.0.0.{number + 1}",
    )  # fmt: skip
    with (place / f"node-{number}.log").open("a") as log:
        return subprocess.Popen(
            [*agent, str(ROOT / "run.py"), *arguments, "trainer.enable_progress_bar=false", "trainer=torchrun"],
            cwd=place, env=environment(), stdout=log, stderr=log,
        )  # fmt: skip


def wait_for(condition, agents, place, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        said = "".join(file.read_text() for file in place.glob("node-*.log"))
        assert time.monotonic() < deadline, said
        assert all(agent.poll() in (None, 0) for agent in agents), said
        time.sleep(0.1)


@pytest.fixture
def agents():
    started = []
    yield started
    for agent in started:
        agent.kill()
    subprocess.run(["pkill", "-9", "-f", "run.py.*trainer=torchrun"], check=False)


def workers():
    found = subprocess.run(["pgrep", "-f", "run.py.*trainer=torchrun"], capture_output=True, text=True)
    for pid in map(int, found.stdout.split()):
        said = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in said:
            yield pid


def test_two_nodes_do_a_sweep(tmp_path, agents):
    grid = ("--multirun", "mixer=conv,lambda", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    agents += [node(number, tmp_path, *grid, port=29611) for number in (0, 1)]
    wait_for(lambda: all(agent.poll() == 0 for agent in agents), agents, tmp_path)
    metrics = [json.loads(file.read_text()) for file in tmp_path.glob("multirun/*/*/metrics.json")]
    assert len(metrics) == 2
    assert len(list(tmp_path.glob("multirun/*"))) == 1
    assert not list(tmp_path.glob("outputs"))
    print("test/top1 of two runs by two nodes:", *[round(found["test/top1"], 4) for found in metrics])


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_killed_worker_comes_back_and_the_job_goes_on(nodes, tmp_path, agents):
    long = ("mixer=conv", "trainer.max_epochs=12", "checkpoint.every_n_steps=4")
    agents += [node(i, tmp_path, *long, port=29612 + nodes, nodes=nodes, each=2 // nodes) for i in range(nodes)]
    wait_for(lambda: list(tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")), agents, tmp_path)
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    start = time.monotonic()
    folder = one_run(tmp_path)
    wait_for(lambda: "going on from" in (folder / "run.log").read_text(), agents, tmp_path)
    print(f"went on {time.monotonic() - start:.1f} s after one of two workers was killed")
    wait_for(lambda: all(agent.poll() == 0 for agent in agents), agents, tmp_path)
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 12
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
    print(*[line for line in (folder / "run.log").read_text().splitlines() if "going on from" in line], sep="\n")
