"""Portable copies of networks."""

import pytest
import torch

from lambdanets.export.portable import portable_copy
from lambdanets.mixers import LambdaLayer
from lambdanets.models import ResNet


@pytest.mark.parametrize("options", [{"scope": 3}, {"scope": "global"}, {"scope": 5, "intra_depth": 2}])
def test_a_copy_computes_the_same_without_custom_operators(options):
    torch.manual_seed(0)

    def mixer(channels, **keys):
        return LambdaLayer(channels, method="tiles", **options, **keys)

    size = {"depth": [1, 1], "layout": "LL", "strides": [1, 2], "width": 0.25, "stem": "small", "image_size": (16, 16)}
    network = ResNet(mixer, num_classes=3, **size)
    images = torch.randn(3, 3, 16, 16)
    network(images)  # the batch norms get statistics
    copy = portable_copy(network, images)
    assert network.training
    assert all(layer.product is None for layer in network.modules() if isinstance(layer, LambdaLayer))
    assert all(layer.product is not None for layer in copy.modules() if isinstance(layer, LambdaLayer))
    with torch.no_grad():
        torch.testing.assert_close(copy(images), network.eval()(images), rtol=0, atol=1e-4)
