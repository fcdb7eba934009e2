"""Our networks in timm's registry, beside timm's own ResNet."""

import inspect

import pytest
import timm
import torch
from timm.models import group_parameters

import lambdanets
import lambdanets.timm_models
from lambdanets.errors import UserError

NETWORKS = ("resnet50", "lambda_resnet50")


def create_network(name, **options):
    return timm.create_model(name, **options).eval()


def shapes(tensors):
    return [tuple(tensor.shape) for tensor in tensors]


@pytest.fixture(scope="module")
def pair():
    """Return timm's network and ours."""
    return [create_network(name, num_classes=7) for name in NETWORKS]


def test_timm_creates_our_networks():
    assert set(lambdanets.timm_models.NAMES) <= set(timm.list_models())
    assert not timm.is_model_pretrained("lambda_resnet50")
    network = timm.create_model("lambda_resnet50", num_classes=7, in_chans=1, img_size=64)
    assert isinstance(network, lambdanets.ResNet)
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert timm.data.resolve_data_config({}, model=network)["input_size"] == (1, 64, 64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretrained": True}, UserError, "lambda_resnet50 has no published weights"),
        ({"output_stride": 16}, UserError, r"output_stride=16 is not supported.*model.strides=\[1,2,2,1\]"),
        ({"global_pool": "median"}, UserError, "global_pool=median is not known; choose one of avg, max"),
        ({"not_an_argument": 1}, TypeError, "not_an_argument"),
    ],
)
def test_what_is_not_supported_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        timm.create_model("lambda_resnet50", **options)


def test_attributes_and_signatures_are_those_of_timms_resnet(pair):
    timms, ours = pair
    for name in ("num_classes", "num_features", "head_hidden_size", "in_chans", "drop_rate", "grad_checkpointing"):
        assert getattr(ours, name) == getattr(timms, name), name
    described = [[(info["num_chs"], info["reduction"]) for info in network.feature_info] for network in pair]
    assert described[0] == described[1]
    for name in ("forward_intermediates", "prune_intermediate_layers", "forward_head", "reset_classifier"):
        parameters = [
            [(p.name, p.default) for p in inspect.signature(getattr(network, name)).parameters.values()]
            for network in pair
        ]
        assert parameters[0] == parameters[1], name
    for network in pair:
        name = network.get_classifier(name_only=True)
        assert network.get_submodule(name) is network.get_classifier()
        assert name == network.pretrained_cfg["classifier"]


def test_shapes_of_features_and_heads_are_those_of_timms_resnet():
    results = []
    x = torch.randn(2, 3, 64, 64, device="meta")
    for name in NETWORKS:
        network = create_network(name, num_classes=7, device="meta")
        features, maps = network.forward_intermediates(x)
        found = shapes([network(x), features, *maps, network.forward_head(features, pre_logits=True)])
        for options in ({"indices": 2}, {"indices": [-1, 0]}, {"indices": [1], "stop_early": True}):
            features, maps = network.forward_intermediates(x, **options)
            found += shapes([features, *maps])
        for classes, pool in ((0, None), (3, "catavgmax"), (5, "max"), (0, ""), (0, "avg"), (4, None)):
            network.reset_classifier(classes, pool)
            found += [*shapes([network(x)]), network.head_hidden_size, network.num_classes]
        kept = network.prune_intermediate_layers([1, 2])
        found += [kept, network.num_features, *shapes(network.forward_intermediates(x, kept, intermediates_only=True))]
        headless = create_network(name, num_classes=0, device="meta", dtype=torch.bfloat16)
        found += [*shapes([headless(x.bfloat16())]), headless(x.bfloat16()).dtype]
        results.append(found)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"out_indices": (1, 3)},
        {"feature_cls": "getter", "out_indices": (0, 2)},
        {"feature_cls": "dict"},
        {"feature_cls": "hook"},
    ],
)
def test_features_only_gives_the_maps_of_timms_resnet(options):
    x = torch.randn(1, 3, 64, 64)
    results = []
    for name in NETWORKS:
        extractor = create_network(name, features_only=True, **options)
        maps = extractor(x)
        maps = maps.values() if isinstance(maps, dict) else maps
        results.append([shapes(maps), extractor.feature_info.channels(), extractor.feature_info.reduction()])
    assert results[0] == results[1]


@pytest.mark.parametrize("coarse", [True, False])
def test_groups_of_parameters_are_as_many_as_timms(pair, coarse):
    counts = []
    for network in pair:
        groups = group_parameters(network, network.group_matcher(coarse=coarse))
        assert sum(map(len, groups.values())) == len([*network.parameters()])
        counts.append(len(groups))
    assert counts[0] == counts[1]
