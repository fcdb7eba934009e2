"""Two nodes of a real Ray cluster on this machine share a sweep; a run resumes after its worker is killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lambdanets.distributed.local_workers import find_free_port
from tests.command import ROOT, environment, run

RAY = Path(sys.executable).with_name("ray")
PORT = find_free_port()
ADDRESS = f"127.0.0.1:{PORT}"
LAUNCHER = (
    "hydra/launcher=ray_cluster",
    f"hydra.launcher.ray.init.address={ADDRESS}",
    "trainer.enable_progress_bar=false",
)

pytestmark = pytest.mark.skipif(not RAY.is_file(), reason="Ray needs pip install -e '.[ray]'")


def start_node(log, *options):
    """Start a node of the cluster in a process that ends with it."""
    command = (RAY, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options)
    own = environment() | {"RAY_AUTH_MODE": "disabled"}  # else a head may ask for a token that its nodes lack
    return subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)


def stop_node(node):
    """End a node with all of its processes."""
    node.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_AUTH_MODE"] = "disabled"
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a short path, as Ray's sockets are in it
    nodes = []
    try:
        with (folder / "log").open("w") as log:
            nodes.append(
                start_node(log, "--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}/ray")
            )
            wait_for_nodes(1, folder / "log", nodes)
            nodes.append(start_node(log, f"--address={ADDRESS}"))
            wait_for_nodes(2, folder / "log", nodes)
        yield
    finally:
        for node in reversed(nodes):
            stop_node(node)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(count, log, nodes):
    deadline = time.monotonic() + 120
    while True:
        command = (RAY, "status", f"--address={ADDRESS}")
        status = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120).stdout
        if status.count(" node_") >= count:
            return
        assert time.monotonic() < deadline, status + log.read_text()
        assert all(node.poll() is None for node in nodes), log.read_text()
        time.sleep(0.5)


def read_provenance(cwd):
    return [json.loads(file.read_text()) for file in sorted(cwd.glob("multirun/*/*/provenance.json"))]


def test_two_nodes_share_a_sweep(tmp_path):
    grid = ("mixer=conv,lambda", "trainer.max_epochs=2", "seed=0,1")
    done = run("--multirun", *LAUNCHER, *grid, cwd=tmp_path)
    assert "4 of 4 runs in multirun/" in done.stdout, done.stdout
    nodes = [starts[0]["job"] for starts in read_provenance(tmp_path)]
    print("nodes:", *nodes)
    assert len(set(nodes)) == 2
    assert not list(tmp_path.glob("outputs"))


def test_a_run_of_two_processes_resumes_after_its_worker_is_killed(tmp_path):
    grid = ("mixer=conv", "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=8", "checkpoint.every_n_steps=4")
    command = [sys.executable, str(ROOT / "run.py"), "--multirun", *LAUNCHER, *grid]
    with (tmp_path / "log").open("w") as log:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("multirun/*/*/checkpoints/last.ckpt")):
        assert sweep.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    (starts,) = read_provenance(tmp_path)
    os.kill(starts[0]["process"], signal.SIGKILL)
    assert sweep.wait(timeout=180) == 0, (tmp_path / "log").read_text()
    (starts,) = read_provenance(tmp_path)
    assert len(starts) == 2
    (folder,) = tmp_path.glob("multirun/*/*/")
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 8
    print(*[line for line in (folder / "run.log").read_text().splitlines() if "resuming from" in line], sep="\n")
