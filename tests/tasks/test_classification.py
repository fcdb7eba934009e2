"""Metrics, schedule and parameter groups, each against something independent."""

import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from lambdanets.bolts import import_bolts
from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.models import ResNet
from lambdanets.tasks import Classification
from lambdanets.tasks.optimizers import lars, parameter_groups
from lambdanets.tasks.schedule import warmup_cosine


class Logits(torch.nn.Module):
    """A model whose input is its output."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("classes", [3, 12])
def test_scores_over_uneven_batches_are_scikit_learns(classes):
    torch.manual_seed(0)
    task = Classification(Logits(), num_classes=classes, optimizer=torch.optim.SGD, batch_size=8)
    logits, labels = torch.randn(41, classes), torch.randint(classes, (41,))
    labels[:classes] = torch.arange(classes)
    for batch in zip(logits.split(8), labels.split(8), strict=True):
        task.evaluate(batch, task.val_metrics)
    scores = {name: value.item() for name, value in task.val_metrics.compute().items()}
    probabilities = logits.double().softmax(-1).numpy()
    everything = range(classes)
    assert scores["val/loss"] == pytest.approx(log_loss(labels, probabilities, labels=everything), rel=1e-5)
    assert scores["val/top1"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=1, labels=everything))
    expected = top_k_accuracy_score(labels, probabilities, k=5, labels=everything) if classes > 5 else 1.0
    assert scores["val/top5"] == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "total"), [(5, 40), (2, 11)])
def test_schedule_is_lightning_bolts(warmup, total):
    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        schedule = make(optimizer)
        found = []
        for _ in range(total):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    peer = import_bolts("optimizers.lr_scheduler").LinearWarmupCosineAnnealingLR
    ours = rates(lambda optimizer: warmup_cosine(optimizer, warmup_steps=warmup, total_steps=total))
    theirs = rates(lambda optimizer: peer(optimizer, warmup, total, warmup_start_lr=0.4 / warmup))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_norms_and_biases_are_not_decayed_unless_asked():
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


def test_without_lightning_bolts_a_sentence_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pl_bolts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pl_bolts", None)
    with pytest.raises(UserError, match="pip install --no-deps lightning-bolts==0.7.0"):
        lars([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
