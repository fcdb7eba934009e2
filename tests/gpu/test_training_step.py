"""Whole training steps on a GPU: what waits, optimizers, precisions, compiled models, memory format, decoded photos."""

import pytest
import pytorch_lightning as pl
import torch

from lambdanets.data import ImageFolder
from lambdanets.models.memory_format import lay_out_convolutions
from tests.gpu.conftest import needs_cuda
from tests.gpu.training import prepare
from tests.images import make_image_folder
from tests.jobs.test_training_step import AUGMENTED, REGULARIZED
from tests.models.test_memory_format import NETWORKS, SIDE, watch

STEPS = 8
ON_CPU = "trainer.accelerator=cpu"
BASE = ("recipe=digits", "data=random", f"data.size={32 * (STEPS + 2)}", "recipe.batch_size=32",
        "trainer.max_epochs=1", "trainer.limit_val_batches=0",
        "trainer.log_every_n_steps=50", "recipe.warmup_epochs=0")  # fmt: skip
# Of the losses: AdamW turns rounding errors of tiny gradients into steps of full length.
TOLERANCES = {"32-true": 0.01, "bf16-mixed": 0.1, "16-mixed": 0.02}


class Losses(pl.Callback):
    """The training loss of each step; while `guarded`, a step that waits for the GPU raises an error."""

    def __init__(self, guarded=False):
        self.guarded, self.values = guarded, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.guarded and batch_idx in (2, STEPS - 2):
            torch.cuda.set_sync_debug_mode("error" if batch_idx == 2 else "default")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].detach())

    def on_exception(self, trainer, pl_module, exception):
        if self.guarded:
            torch.cuda.set_sync_debug_mode("default")


def train(folder, *overrides, guarded=False, ckpt=None):
    """Train for STEPS steps; return the losses and the training."""
    folder.mkdir()
    losses = Losses(guarded)
    _, training = prepare(folder, *BASE, *overrides, ckpt=ckpt)
    training.trainer.callbacks.insert(0, losses)
    training.trainer.fit(training.task, datamodule=training.data, ckpt_path=ckpt, weights_only=True)
    return torch.stack(losses.values).cpu(), training


@needs_cuda
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_never_waits_for_the_gpu(tmp_path, device, optimizer, precision):
    overrides = (*AUGMENTED, *REGULARIZED, f"recipe/optimizer={optimizer}", f"trainer.precision={precision}")
    losses, training = train(tmp_path / "run", *overrides, guarded=True)
    assert all(group["fused"] for group in training.trainer.optimizers[0].param_groups)
    assert torch.isfinite(losses).all()


@needs_cuda
def test_a_wait_is_an_error_in_such_a_step(tmp_path, device):
    with pytest.raises(RuntimeError, match="synchroniz"):
        train(tmp_path / "run", "recipe.skip_nonfinite=true", "+recipe.optimizer.fused=false", guarded=True)


@pytest.mark.parametrize(
    ("optimizer", "precision", "clip"),
    [
        ("sgd", "32-true", "null"),
        ("adamw", "32-true", "0.5"),
        ("sgd", "bf16-mixed", "0.5"),
        ("adamw", "bf16-mixed", "null"),
        ("sgd", "16-mixed", "0.5"),
        ("adamw", "16-mixed", "null"),
    ],
)
def test_losses_are_those_of_the_cpu(tmp_path, device, optimizer, precision, clip):
    overrides = (f"recipe/optimizer={optimizer}", "recipe.optimizer.lr=1e-3", f"trainer.gradient_clip_val={clip}")
    expected, _ = train(tmp_path / "cpu", ON_CPU, *overrides)
    precise = precision if device.type == "cuda" or precision != "16-mixed" else "32-true"
    losses, _ = train(tmp_path / "gpu", *overrides, f"trainer.precision={precise}")
    # The scaler of float16 skips steps until it has found its scale; the first loss comes before any step.
    count = 1 if precise == "16-mixed" else STEPS
    torch.testing.assert_close(losses[:count], expected[:count], rtol=TOLERANCES[precision], atol=0)
    assert torch.isfinite(losses).all()


@needs_cuda
def test_a_skipped_first_step_leaves_no_trace(tmp_path, device):
    """With float16 the first scale is too large, so that the first steps are skipped."""
    overrides = ("recipe/optimizer=sgd", "recipe.optimizer.lr=0.01", "trainer.precision=16-mixed")
    losses, training = train(tmp_path / "run", *overrides)
    assert torch.isfinite(losses).all()
    assert losses.max() < 2 * losses[0]
    for state in training.trainer.optimizers[0].state.values():
        assert torch.isfinite(state["momentum_buffer"]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_of_the_cpu_continues_on_the_gpu(tmp_path, device, optimizer):
    overrides = (f"recipe/optimizer={optimizer}", "recipe.optimizer.lr=1e-3", "trainer.max_epochs=2")
    expected, training = train(tmp_path / "cpu", ON_CPU, *overrides)
    checkpoint = training.checkpoints.folder / "previous.ckpt"
    losses, _ = train(tmp_path / "gpu", *overrides, ckpt=str(checkpoint))
    torch.testing.assert_close(losses, expected[-len(losses) :], rtol=TOLERANCES["32-true"], atol=0)


@needs_cuda
@pytest.mark.parametrize("mode", ["true", "reduce-overhead"])
def test_a_compiled_model_trains_like_an_eager_one(tmp_path, device, mode):
    overrides = ("recipe.optimizer.lr=1e-3", "recipe.ema_decay=0.9")
    expected, _ = train(tmp_path / "eager", *overrides)
    losses, _ = train(tmp_path / "compiled", *overrides, f"compile={mode}")
    torch.testing.assert_close(losses, expected, rtol=TOLERANCES["32-true"], atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_channels_last_and_bfloat16(name, device):
    torch.manual_seed(0)
    network = NETWORKS[name]().to(device)
    lay_out_convolutions(network)
    others, dtypes = watch(network)
    with torch.autocast(device.type, torch.bfloat16):
        logits = network(torch.randn(4, 3, SIDE, SIDE, device=device))
    logits.float().square().sum().backward()
    assert [other for other in others if other.endswith("output")] == []
    assert dtypes == {torch.bfloat16}


@needs_cuda
def test_the_gpu_decodes_the_same_photos(tmp_path, device):
    root = make_image_folder(tmp_path / "images", train=14, val=8)
    options = {"root": str(root), "image_size": 24, "memory_gib": 0, "batch_size": 4}
    by_cpu, by_gpu = ImageFolder(**options), ImageFolder(**options, decoder="cuda")
    for data in (by_cpu, by_gpu):
        data.setup("fit")
    for loader in ("train_dataloader", "val_dataloader"):
        for (expected, labels), batch in zip(getattr(by_cpu, loader)(), getattr(by_gpu, loader)(), strict=True):
            images, gpu_labels = by_gpu.transfer_batch_to_device(batch, device, 0)
            assert images.dtype == torch.uint8
            assert (images.cpu().int() - expected.int()).abs().float().mean() < 2  # of 255
            assert torch.equal(gpu_labels.cpu(), labels)
