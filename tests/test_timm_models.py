"""Our networks in timm's registry."""

import pytest
import timm
import torch

import lambdanets
import lambdanets.timm_models
from lambdanets.errors import UserError


def test_timm_creates_our_networks():
    assert set(lambdanets.timm_models.NAMES) <= set(timm.list_models())
    network = timm.create_model("lambda_resnet50", num_classes=7, in_chans=1, img_size=64)
    assert isinstance(network, lambdanets.ResNet)
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert timm.data.resolve_data_config({}, model=network)["input_size"] == (1, 64, 64)
    with pytest.raises(UserError, match="lambda_resnet50 has no published weights"):
        timm.create_model("lambda_resnet50", pretrained=True)
    with pytest.raises(UserError, match="support features_only"):
        lambdanets.timm_models.create_network("lambda_resnet50", features_only=True)
