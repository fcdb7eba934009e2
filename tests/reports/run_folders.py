"""Folders of made-up runs."""

import json

EXPERIMENTS = ["table3/conv", "table3/se", "table3/lambda_u1"]
CONFIG = """
experiment: {experiment}
name: {experiment}-digits
seed: {seed}
job: {{_target_: lambdanets.jobs.fit.run}}
trainer: {{max_epochs: 2}}
recipe: {{image_size: 32}}
sweep: {{title: A table, baseline: table3/conv, experiments: [{experiments}]}}
mixer: {{_target_: lambdanets.mixers.Conv, _partial_: true}}
model:
  {{_target_: lambdanets.models.ResNet, _partial_: true, depth: [1], layout: C, strides: [1], stem: small, width: 0.25}}
data: {{_target_: lambdanets.data.Digits}}
"""
START = {
    "command": "python run.py",
    "host": "my-host",
    "folder": "/home/me",
    "process": 4711,
    "date": "2026-01-02T03:04:05",
    "git": "abcdef0123456",
    "processor": "Abacus",
    "cores": 2,
    "platform": "Linux",
    "packages": {"torch": "2.0"},
}


def make_run(root, experiment, seed, top1=None, *, epochs=2, failed=None, overrides=(), started=None):
    """Write a run's folder; without top1 it is unfinished, or failed with that message."""
    folder = root / f"{experiment.replace('/', '_')}-{seed}-{len(overrides)}"
    (folder / ".hydra").mkdir(parents=True)
    text = CONFIG.format(experiment=experiment, seed=seed, experiments=", ".join(EXPERIMENTS))
    for name in ("config.yaml", "composed.yaml"):
        (folder / name).write_text(text)
    command = [f"experiment={experiment}", f"seed={seed}", "trainer.max_epochs=2", *overrides]
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in command))
    rows = ["epoch,step,train/loss,val/loss,val/top1,speed/peak_memory_gib"]
    for epoch in range(epochs):
        rows += [f"{epoch},{10 * epoch + 4},0.9,,,"]
        rows += [f"{epoch},{10 * epoch + 9},,1.0,{0.3 + 0.1 * epoch},{0.5 + epoch / 10}"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    (folder / "provenance.json").write_text(json.dumps([START | ({"date": started} if started else {})]))
    if top1 is not None:
        metrics = {"test/top1": top1, "val/top1": top1, "parameters": 5754, "images_per_s": 50.0 + seed}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if failed:
        (folder / "failed.json").write_text(json.dumps({"error": failed}))
    return folder


def make_sweep(root):
    """Write three experiments: two with three seeds, one with a finished, a failed and a missing run."""
    for seed, (conv, se) in enumerate([(0.70, 0.72), (0.72, 0.73), (0.71, 0.76)]):
        make_run(root, "table3/conv", seed, conv)
        make_run(root, "table3/se", seed, se)
    make_run(root, "table3/lambda_u1", 0, 0.80)
    make_run(root, "table3/lambda_u1", 1, failed="The <disk> is full.")
    return root


def change_start(folder, **changes):
    """Change what a run has recorded of its start; None removes a value."""
    file = folder / "provenance.json"
    (start,) = json.loads(file.read_text())
    start = {key: value for key, value in (start | changes).items() if value is not None}
    file.write_text(json.dumps([start]))


def change_config(folder, old, new):
    """Replace a part of a run's config."""
    file = folder / "config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
