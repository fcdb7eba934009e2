"""Every experiment composes, builds and learns."""

import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from torch.nn import functional as F

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.tasks.optimizers import parameter_groups
from tests.configs import EXPERIMENTS, SWEEPS, composing, experiment

SIZE = (64, 64)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if not name.startswith("coco/")])
def test_one_optimiser_step(name):
    config = experiment(name)
    torch.manual_seed(0)
    model = build_model(config, ImageSpec(3, SIZE, 10))
    optimizer = instantiate(config.recipe.optimizer)(parameter_groups(model))
    before = [parameter.detach().clone() for parameter in model.classifier.parameters()]
    loss = F.cross_entropy(model(torch.randn(2, 3, *SIZE)), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    after = [*model.classifier.parameters()]
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("coco/")])
def test_one_step_of_a_detector(name):
    config = experiment(name, "data.root=nowhere", "model.channels=16", "model.hidden=32", "model.backbone.width=0.25")
    torch.manual_seed(0)
    model = build_model(config, ImageSpec(3, SIZE, 10))
    masks = torch.zeros(1, *SIZE)
    masks[:, 8:40, 10:50] = 1
    target = {"boxes": torch.tensor([[10.0, 8.0, 50.0, 40.0]]), "labels": torch.tensor([3]), "masks": masks}
    losses = model([torch.randn(3, *SIZE)], [target])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_knows_the_keys_of_its_rows(sweep):
    key, value = ("side", 64) if sweep == "pathfinder" else ("root", "/data")  # what the base config's data don't have
    with composing():
        config = compose("config", overrides=[f"sweep={sweep}", f"data.{key}={value}"])
    assert config.data[key] == value
    assert len(config.sweep.experiments) > 1
