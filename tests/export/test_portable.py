"""Portable copies of networks."""

from functools import partial

import pytest
import torch

from lambdanets.export.formats import export_program
from lambdanets.export.portable import portable_copy
from lambdanets.mixers import LambdaLayer
from lambdanets.models import ResNet
from lambdanets.models.mask_rcnn import Pyramid


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


def test_a_detectors_backbone_with_its_pyramid_exports():
    torch.manual_seed(0)
    body = ResNet(partial(LambdaLayer, scope="global"), depth=[1, 1], layout="CL", strides=[1, 2], width=0.25)
    pyramid = Pyramid(body, 8).eval()
    images = torch.randn(2, 3, 64, 48)
    program = export_program(portable_copy(pyramid, images), images)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [target for target in targets if target.startswith("lambdanets")]
    images = torch.randn(5, 3, 64, 48)
    with torch.no_grad():
        expected, actual = pyramid(images), program.module()(images)
    assert list(actual) == list(expected) == ["0", "1", "pool"]
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-4)
