"""lambdanets.create: networks by name."""

import pytest

import lambdanets
from lambdanets.errors import UserError


def test_create_builds_what_the_command_line_builds():
    network = lambdanets.create("resnet50", mixer="lambda", overrides=["model.layout=CCLL"])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(15.560e6, abs=500)  # of hybrids/CCLL


def test_images_and_classes_fit_the_arguments():
    network = lambdanets.create("tiny", mixer="conv", image_size=8, in_channels=1, num_classes=7)
    assert network.stem[0].in_channels == 1
    assert network.classifier.out_features == 7


def test_unknown_names_have_a_suggestion():
    with pytest.raises(UserError, match="model=resnet49 is not known; choose one of"):
        lambdanets.create("resnet49")
    with pytest.raises(UserError, match="depht is not a key of the config; did you mean model.depth"):
        lambdanets.create("tiny", overrides=["model.depht=3"])
