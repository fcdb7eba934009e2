"""Gradient norms by stage."""

from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, TensorDataset

import lambdanets
from lambdanets.callbacks import GradientNorms
from lambdanets.callbacks.gradient_norms import stage_name
from lambdanets.tasks import Classification


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("model.stages.2.0.conv1.weight", "c4"),
        ("model.stem.0.weight", "stem"),
        ("model.classifier.bias", "classifier"),
        ("model.backbone.body.stages.0.1.mixer.table", "c2"),
        ("model.backbone.fpn.inner_blocks.0.0.weight", "fpn"),
        ("model.roi_heads.box_head.fc6.weight", "roi_heads"),
    ],
)
def test_stages_of_parameters(name, stage):
    assert stage_name(name) == stage


def test_an_interval_of_0_logs_nothing():
    GradientNorms().on_before_optimizer_step(SimpleNamespace(global_step=0, log_every_n_steps=0), None, None)


class Gradients(pl.Callback):
    """The gradients of the last step by parameter."""

    def on_after_backward(self, trainer, pl_module):
        self.gradients = {name: p.grad.clone() for name, p in pl_module.model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_logged_norms_are_those_of_the_stages(scaled, options, tmp_path):
    torch.manual_seed(0)
    model = lambdanets.create("tiny", mixer="conv", image_size=8, in_channels=1, num_classes=10)
    task = Classification(model, num_classes=10, optimizer=partial(torch.optim.SGD, **options), batch_size=4)
    gradients, scale = Gradients(), 2.0**10 if scaled else 1.0
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))] if scaled else []
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, plugins=plugins, callbacks=[GradientNorms(), gradients],
        log_every_n_steps=1, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    batch = torch.randn(4, 1, 8, 8), torch.arange(4)
    trainer.fit(task, DataLoader(TensorDataset(*batch), batch_size=4))
    norms = {name: value.item() for name, value in trainer.logged_metrics.items() if name.startswith("gradients/")}
    for stage, prefix in {"stem": "stem", "c2": "stages.0", "c5": "stages.3", "classifier": "classifier"}.items():
        flat = torch.cat([g.flatten() for name, g in gradients.gradients.items() if name.startswith(f"{prefix}.")])
        assert norms[f"gradients/{stage}"] == pytest.approx(flat.norm().item() / scale, rel=1e-5)
    total = torch.cat([gradient.flatten() for gradient in gradients.gradients.values()]).norm().item()
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(total / scale, rel=1e-5)
