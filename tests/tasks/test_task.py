"""The base of all tasks."""

from types import SimpleNamespace

import pytest
import torch

from lambdanets.mixers import Conv
from lambdanets.models import ResNet
from lambdanets.tasks import Classification


@pytest.mark.parametrize(("device", "memory_format"), [("cuda", torch.channels_last), ("cpu", torch.contiguous_format)])
def test_convolutions_are_laid_out_for_a_gpu_before_training(device, memory_format):
    network = ResNet(Conv, depth=[1], strides=[1], layout="L", width=0.25, num_classes=2)
    task = Classification(network, num_classes=2, optimizer=torch.optim.SGD, batch_size=1)
    task.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    task.configure_model()
    assert network.stages[0][0].mixer.weight.is_contiguous(memory_format=memory_format)
