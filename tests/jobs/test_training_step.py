"""The steps of a training make the host wait for no device, on a simulated one whose tensors the CPU computes."""

import json
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.command import ROOT, environment
from tests.images import make_image_folder

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch has no backends written in Python",
)
AUGMENTED = (
    "recipe.augment.flip=true", "recipe.augment.crop_padding=2", "recipe.augment.erasing=0.5",
    "recipe.augment.mixup=0.2", "recipe.augment.cutmix=1", "recipe.augment.rand_augment={num_ops: 2, magnitude: 9}",
)  # fmt: skip
REGULARIZED = (
    "recipe.dropout=0.1", "recipe.drop_path=0.1", "recipe.ema_decay=0.9", "recipe.skip_nonfinite=true",
    "recipe.label_smoothing=0.1", "trainer.gradient_clip_val=1",
)  # fmt: skip
FUSED = "+recipe.optimizer.fused=true"  # as on a GPU


def count_waits(*overrides):
    """Return the waits of each step: lists of count, reason and callers."""
    arguments = ["-m", "tests.simulated_training", "model=tiny", "recipe=digits", *overrides]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_wait_is_counted():
    """The test below would pass if nothing were counted."""
    code = """
import torch
from tests.simulated_device import SimulatedDevice
def count(function):
    with SimulatedDevice.record() as waits:
        function()
    return sum(waits.values())
with SimulatedDevice():
    x, pinned = torch.ones(3, device="sim"), torch.ones(3)
    mask = x > 0
    print([count(f) for f in (
        lambda: x.sum().item(), lambda: bool(x[0] > 0), lambda: x[mask], lambda: x.nonzero(), lambda: x.cpu(),
        lambda: torch.tensor([1.0], device="sim"), lambda: pinned.to("sim"), lambda: x.copy_(pinned),
        lambda: x.mul(2).sum(), lambda: x * 2.0, lambda: pinned.to("sim", non_blocking=True),
        lambda: torch.rand(3, device="sim"), lambda: x[torch.zeros(3, device="sim", dtype=torch.long)],
        lambda: x.__setitem__(mask, 0.0), lambda: x.__setitem__(mask, x.clone()),
    )])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "[1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1]\n", done.stderr


def test_a_step_makes_the_host_wait_for_nothing():
    overrides = ("data=random", "data.size=200", "recipe.batch_size=32", "recipe/optimizer=sgd", FUSED)
    steps = count_waits(*overrides, *AUGMENTED, *REGULARIZED, "trainer.log_every_n_steps=50")
    assert len(steps) == 6
    assert steps[1:-1] == [[]] * 4  # the first step creates the logs, the last one ends the epoch


def test_streamed_images_wait_for_nothing_and_only_a_logged_step_reads_values(tmp_path):
    root = make_image_folder(tmp_path / "images", train=30, val=4)
    overrides = ("data=imagefolder", f"data.root={root}", "data.memory_gib=0", "data.num_workers=0", "mixer=conv")
    steps = count_waits(*overrides, FUSED, "recipe.batch_size=4", "trainer.log_every_n_steps=4")
    assert [bool(waits) for waits in steps[1:-1]] == [False, False, True, False, False]
