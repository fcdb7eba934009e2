"""Lambda layers that share their position embeddings."""

import torch

from lambdanets.mixers import LambdaLayer, SharedLambda
from lambdanets.models import ResNet


def test_layers_of_one_resolution_share_one_table():
    mixer = SharedLambda(scope="global", key_depth=4)
    size = {"depth": [2, 2], "strides": [1, 2], "layout": "LL", "width": 0.25, "stem": "small", "image_size": (8, 8)}
    model = ResNet(mixer, zero_init=False, **size)
    layers = [module for module in model.modules() if isinstance(module, LambdaLayer)]
    tables = [layer.table for layer in layers]
    # The first block of a stage works on the map of the stage before it.
    assert tables[0] is tables[1] is tables[2]
    assert tables[3] is not tables[0]
    other = ResNet(mixer, **size)
    assert all(table is not tables[0] for table in other.parameters())
    assert sum(parameter is tables[0] for parameter in model.parameters()) == 1
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert tables[0].grad.abs().sum() > 0
    other.load_state_dict(model.state_dict())
