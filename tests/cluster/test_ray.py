"""Two nodes of a real Ray cluster on this machine share a sweep; a run resumes after its worker is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT, environment, run

RAY = Path(sys.executable).with_name("ray")
PORT = 6399
ADDRESS = f"127.0.0.1:{PORT}"
LAUNCHER = (
    "hydra/launcher=ray_cluster",
    f"hydra.launcher.ray.init.address={ADDRESS}",
    "trainer.enable_progress_bar=false",
)

pytestmark = pytest.mark.skipif(not RAY.is_file(), reason="Ray needs pip install -e '.[ray]'")


def ray(*arguments):
    subprocess.run([RAY, *arguments], env=environment(), check=True, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    os.environ["RAY_AUTH_MODE"] = "disabled"  # else a head may ask for a token that its nodes lack
    if subprocess.run([RAY, "status"], env=environment(), capture_output=True, timeout=120).returncode == 0:
        pytest.skip("Ray already runs on this machine, and 'ray stop' would end it")
    ray("start", "--head", f"--port={PORT}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats")
    ray("start", f"--address={ADDRESS}", "--num-cpus=1", "--disable-usage-stats")
    yield
    ray("stop", "--force")
    shutil.rmtree("/tmp/ray", ignore_errors=True)


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
