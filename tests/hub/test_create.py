"""lambdanets.create: networks by name."""

import pytest
import torch

import lambdanets
from lambdanets.errors import UserError
from lambdanets.hub.create import compose_model
from tests.checkpoints import CLASSES

NAME = "digits/lambda"


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


def test_published_weights_come_with_their_architecture(weights):
    _, network = weights
    published = lambdanets.create(NAME, pretrained=True)
    assert published.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(published.state_dict()[name], tensor)
    for new in (lambdanets.create(NAME), lambdanets.create(NAME, pretrained=False)):
        assert {name: t.shape for name, t in new.state_dict().items()} == {
            name: t.shape for name, t in network.state_dict().items()
        }
        assert not torch.equal(new.classifier.weight, network.classifier.weight)


def test_published_weights_take_other_classes_and_sizes(weights):
    _, network = weights
    other = lambdanets.create(NAME, pretrained=True, num_classes=3, image_size=16)
    assert other.classifier.out_features == 3
    assert other.stages[0][0].mixer.table.shape[2:] == (31, 31)
    assert torch.equal(other.stages[0][0].conv1.weight, network.stages[0][0].conv1.weight)
    assert lambdanets.create(NAME, pretrained=True, num_classes=0)(torch.zeros(1, 1, 8, 8)).shape[1] > len(CLASSES)
    assert lambdanets.create(NAME, in_channels=3).stem[0].in_channels == 3


def test_a_network_of_ones_own_starts_from_published_weights(weights):
    _, network = weights
    options = {"image_size": 8, "in_channels": 1, "num_classes": 10}
    overrides = ["mixer.scope=global", "mixer.heads=2"]
    own = lambdanets.create("tiny", mixer="lambda", pretrained=NAME, overrides=overrides, **options)
    assert all(torch.equal(own.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_a_source_may_be_a_path_and_an_empty_one_is_refused(weights):
    folder, network = weights
    options = {
        "image_size": 8,
        "in_channels": 1,
        "num_classes": 10,
        "overrides": ["mixer.scope=global", "mixer.heads=2"],
    }
    own = lambdanets.create("tiny", pretrained=folder, **options)
    assert torch.equal(own.stem[0].weight, network.stem[0].weight)
    with pytest.raises(UserError, match="can't be loaded"):
        lambdanets.create("tiny", pretrained="", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": NAME, "mixer": "conv"}, "with a mixer and options of its own: leave out mixer and overrides"),
        ({"model": NAME, "overrides": ["mixer.heads=4"]}, "with a mixer and options of its own"),
        ({"model": NAME, "pretrained": True, "in_channels": 3}, "has weights for in_channels=1, not 3"),
        ({"model": "resnet50", "pretrained": True}, f"'resnet50' has no published weights; .* works with {NAME}"),
        ({"model": "digits/lamda"}, f"'digits/lamda' is not known. Published weights of a similar name: {NAME}"),
        ({"model": "digits/lamda", "pretrained": True}, f"'digits/lamda' is not known. .* similar name: {NAME}"),
    ],
)
def test_arguments_that_published_weights_do_not_fit(arguments, message, weights):
    with pytest.raises(UserError, match=message):
        lambdanets.create(**arguments)


def test_a_name_of_weights_is_one_of_a_model_even_where_a_folder_has_it(weights, tmp_path):
    (tmp_path / "cwd" / NAME).mkdir(parents=True)
    assert torch.equal(lambdanets.create(NAME, pretrained=True).classifier.weight, weights[1].classifier.weight)


def test_the_names_are_listed(weights):
    assert lambdanets.list_models(pretrained=True) == [NAME]
    names = lambdanets.list_models()
    assert {"resnet50", "resnet101", "lambda_resnet50", "mobilenet_v2", "tiny", NAME} < set(names)
    assert lambdanets.list_models("lambda_resnet4*") == ["lambda_resnet420"]
    assert lambdanets.list_models("digits/*") == [NAME]


def test_every_listed_name_is_one_of_the_configs():
    for name in lambdanets.list_models(pretrained=False):
        if "/" not in name:
            assert compose_model(name, "lambda", ()).model._target_
