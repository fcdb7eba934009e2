"""Several local processes compute what one computes; they start, stop and fail together."""

import csv
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from omegaconf import OmegaConf

import lambdanets
from lambdanets.config.build import build_data
from tests import in_process
from tests.command import run, single_run_folder, start_training, working_dirs

QUIET = ("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1")
TWO_PROCESSES = ("trainer=ddp", "trainer.devices=2", "mixer=conv")


def read_column(folder, name):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def worker_ids(process):
    """Return the process ids of a command's workers."""
    listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "lambdanets.distributed.worker" in line]


def assert_no_process_in(folder):
    """Check that no process works in a folder, after time for processes to exit."""
    deadline = time.monotonic() + 10
    while processes := [pid for pid, path in working_dirs().items() if path.is_relative_to(folder)]:
        assert time.monotonic() < deadline, processes
        time.sleep(0.1)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    # No random draw depends on the process; the splits of 1,294 and 144 images are not divisible by the batch either.
    common = (
        "trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=1", "trainer.limit_train_batches=8",
        "recipe/optimizer=sgd", "recipe.lr_batch=64", "recipe.augment.crop_padding=0", "data.val_size=143",
    )  # fmt: skip
    in_process.run(*common, *QUIET, "name=one", "recipe.batch_size=64", cwd=tmp_path)
    run(
        *common, *QUIET, "name=two", "recipe.batch_size=32", "trainer=ddp", "trainer.devices=2",
        "trainer.sync_batchnorm=true", cwd=tmp_path,
    )  # fmt: skip
    one, two = (next(tmp_path.glob(f"outputs/{name}/*")) for name in ("one", "two"))
    for name in ("train/loss", "train/top1", "train/grad_norm", "val/loss", "val/top1"):
        assert len(read_column(one, name)) == (8 if name in ("train/loss", "train/grad_norm") else 1)
        assert read_column(two, name) == pytest.approx(read_column(one, name), rel=1e-6), name
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    for name in ("test/loss", "test/top1", "test/top5"):
        assert second[name] == pytest.approx(first[name], rel=1e-6), name


def test_fsdp_trains_saves_and_resumes(tmp_path):
    # The blocks of the first stage share a table, so that they can't be sharded one by one.
    network = ("mixer=lambda_shared", "model=compact", "model.depth=[2,1]", "model.width=0.25", "recipe.norm=sync")
    options = ("trainer=fsdp", "trainer.devices=2", *network, *QUIET, "trainer.limit_train_batches=6")
    run(*options, "trainer.max_epochs=1", cwd=tmp_path)
    folder = single_run_folder(tmp_path)
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    done = run(*options, "trainer.max_epochs=2", "ckpt=last", cwd=tmp_path)
    assert "after step 6" in done.stdout
    assert torch.load(last, weights_only=True)["global_step"] == 12
    # The checkpoint has unsharded weights: one process tests it.
    in_process.run("job=test", f"ckpt={folder.relative_to(tmp_path)}", "trainer=cpu", *QUIET, cwd=tmp_path)
    one_process = json.loads((folder / "test" / "metrics.json").read_text())
    two_processes = json.loads((folder / "metrics.json").read_text())
    assert one_process["test/top1"] == two_processes["test/top1"]
    assert one_process["test/loss"] == pytest.approx(two_processes["test/loss"], rel=1e-5)


def test_fsdp_validates_the_network_that_it_stores(tmp_path):
    network = ("mixer=conv", "model=compact", "model.depth=[1,1]", "model.width=0.125", "recipe.norm=batch")
    options = ("trainer=fsdp", "trainer.devices=2", *network, *QUIET, "trainer.limit_train_batches=6")
    run(*options, "trainer.max_epochs=1", cwd=tmp_path)
    folder = single_run_folder(tmp_path)
    (recorded,) = read_column(folder, "val/loss")
    config = OmegaConf.load(folder / "config.yaml")
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    network = lambdanets.load(folder / "checkpoints" / "last.ckpt").network
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(images), labels).item()
    assert recorded == pytest.approx(loss, rel=1e-5)


def test_a_killed_worker_ends_the_job_within_a_minute_with_its_cause(tmp_path):
    options = (*TWO_PROCESSES, *QUIET, "trainer.max_epochs=50", "checkpoint.every_n_steps=2")
    process = start_training(*options, cwd=tmp_path)
    (worker,) = worker_ids(process)
    os.kill(worker, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: The process of rank 1 failed (killed by SIGKILL), and the others cannot continue" in stderr
    last = torch.load(single_run_folder(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] >= 2
    assert_no_process_in(tmp_path)


def test_sigterm_to_the_command_stops_all_processes_with_a_checkpoint(tmp_path):
    process = start_training(
        *TWO_PROCESSES, *QUIET, "trainer.max_epochs=50", "checkpoint.every_n_steps=2", cwd=tmp_path
    )
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    step = int(stdout.partition("Stopped by SIGTERM after step ")[2].partition(";")[0])
    last = torch.load(single_run_folder(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step
    assert_no_process_in(tmp_path)


def test_an_orphaned_worker_exits(tmp_path):
    process = start_training(
        *TWO_PROCESSES, *QUIET, "trainer.max_epochs=50", "checkpoint.every_n_steps=2", cwd=tmp_path
    )
    process.kill()
    process.communicate(timeout=60)
    assert_no_process_in(tmp_path)


def test_a_user_error_in_all_processes_is_one_line(tmp_path):
    done = run(*TWO_PROCESSES, "mixer=lambda", "mixer.heads=3", cwd=tmp_path, code=1)
    errors = [line for line in done.stderr.splitlines() if "heads=3 does not divide" in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_sweep_of_runs_with_two_processes(tmp_path):
    grid = ("mixer=conv,lambda", "trainer=ddp", "trainer.devices=2", '+note="a=b, c d"')
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
    done = run("--multirun", *grid, *limits, "trainer.limit_test_batches=1", cwd=tmp_path)
    assert "2 of 2 runs in multirun/" in done.stdout
    assert os.listdir(tmp_path) == ["multirun"]
    (sweep,) = (tmp_path / "multirun").iterdir()
    folders = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(folders) == 2
    for folder in folders:
        assert "test/top1" in json.loads((folder / "metrics.json").read_text())
        assert len(json.loads((folder / "provenance.json").read_text())) == 1
        assert sorted(path.name for path in folder.glob("*.log")) == ["run.log"]
        assert (folder / "run.log").read_text().count("M parameters, in ") == 1
        assert "note: a=b, c d" in (folder / "config.yaml").read_text().splitlines()
        assert len((folder / "metrics.csv").read_text().splitlines()) > 2
    assert_no_process_in(tmp_path)
