"""Parameter groups, and LARS worked out by hand."""

import sys

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.models import ResNet
from lambdanets.tasks.optimizers import lars, parameter_groups


def test_norms_and_biases_are_not_decayed_by_default():
    model = ResNet(LambdaLayer, depth=[1, 1, 1, 1], width=0.25, stem="small", image_size=(8, 8), num_classes=5)
    decayed, spared = parameter_groups(model)
    undecayed = {id(parameter) for parameter in spared["params"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = isinstance(module, torch.nn.BatchNorm2d)
            assert (id(parameter) in undecayed) == (is_norm or name == "bias")
    assert spared["weight_decay"] == 0
    assert "weight_decay" not in decayed
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    (group,) = parameter_groups(model, decay_norm_and_bias=True)
    assert len(group["params"]) == len(list(model.parameters()))


def test_lars_scales_a_step_by_the_ratio_of_norms():
    weight = torch.nn.Parameter(torch.full((4, 4), 2.0))
    optimizer = lars([weight], lr=1.0, trust_coefficient=0.01, weight_decay=0.5)
    weight.grad = torch.full((4, 4), 50.0)
    optimizer.step()
    # ‖w‖ = 8, ‖g‖ = 200: the step is trust · ‖w‖ / (‖g‖ + decay · ‖w‖) · (g + decay · w) = 0.01 · 8 / 204 · 51 = 0.02.
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 2.0 - 0.02), rtol=1e-4, atol=1e-4)


def test_the_error_without_lightning_bolts_has_the_command_that_installs_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pl_bolts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pl_bolts", None)
    with pytest.raises(UserError, match="pip install --no-deps lightning-bolts==0.7.0"):
        lars([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
