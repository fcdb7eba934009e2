"""Parameter groups, and LARS worked out by hand."""

import copy
import sys
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.models import ResNet
from lambdanets.tasks.optimizers import create_optimizer, lars, parameter_groups, prepare_fused


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


@pytest.mark.parametrize(
    ("factory", "device", "fused"),
    [
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), "cuda", True),
        (partial(torch.optim.AdamW, lr=0.1), "cuda", True),
        (partial(torch.optim.AdamW, lr=0.1), "cpu", None),
        (partial(torch.optim.AdamW, lr=0.1, fused=False), "cuda", False),
        (partial(torch.optim.AdamW, lr=0.1, foreach=True), "cuda", None),
        (partial(torch.optim.Rprop, lr=0.1), "cuda", None),  # has no such option
    ],
)
def test_optimizers_are_fused_on_a_gpu_only_unless_the_recipe_decides(factory, device, fused):
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.empty(4, 4, device=device))
        optimizer = create_optimizer(factory, [{"params": [weight]}])
    assert optimizer.param_groups[0].get("fused") is fused


@pytest.mark.parametrize(
    "factory",
    [partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True), partial(torch.optim.AdamW, lr=0.1)],
)
def test_a_fused_optimizer_continues_a_run_of_another_kind_and_memory_format(factory):
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(7, 4, 3, 5, 5, generator=generator)

    def train(weight, optimizer, gradients):
        for gradient in gradients:
            weight.grad = torch.empty_like(weight).copy_(gradient)
            optimizer.step()

    weight = torch.nn.Parameter(start.clone())
    plain = factory([weight])
    train(weight, plain, gradients[:3])

    channels_last = torch.nn.Parameter(weight.detach().clone(memory_format=torch.channels_last))
    fused = prepare_fused(factory([channels_last], fused=True))
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert fused.param_groups[0]["fused"] is True
    states = [value for value in fused.state[channels_last].values() if value.shape == start.shape]
    assert states
    assert {value.stride() for value in states} == {channels_last.stride()}

    train(weight, plain, gradients[3:])
    train(channels_last, fused, gradients[3:])
    torch.testing.assert_close(channels_last.detach(), weight.detach(), rtol=1e-5, atol=1e-6)


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
