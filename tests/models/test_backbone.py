"""Features, heads and gradient checkpointing of all classifiers."""

import copy
import io
from weakref import WeakSet

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import create_feature_extractor

from lambdanets import create
from lambdanets.errors import UserError

NETWORKS = {
    "resnet": ("compact", "lambda", ["model.width=0.125", "mixer.heads=1", "mixer.key_depth=4"]),
    "mobilenet": ("mobilenet_v2", "lambda", ["model.blocks=[4]", "mixer.heads=2", "mixer.key_depth=4"]),
    "mobilenet_v3": ("mobilenet_v3_large", "conv", []),
    "efficientnet": ("efficientnet", "conv", []),
}
WITHOUT_HIDDEN_HEAD = [name for name in NETWORKS if name != "mobilenet_v3"]


def make_network(name, **options):
    torch.manual_seed(0)
    model, mixer, overrides = NETWORKS[name]
    overrides = [*overrides, "recipe.dropout=0.1", "recipe.drop_path=0.1"]
    return create(model, mixer=mixer, image_size=32, **{"num_classes": 5} | options, overrides=overrides).eval()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return make_network(request.param)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class LiveTensors(TorchDispatchMode):
    """Counts the memory of what operators have returned, as far as it is still referenced."""

    def __init__(self):
        super().__init__()
        self.storages = WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        self.storages.update(leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result

    def count_bytes(self):
        return sum({storage.data_ptr(): storage.nbytes() for storage in self.storages}.values())


def test_features_and_head_make_the_network(network, images):
    features = network.forward_features(images)
    assert features.shape[1] == network.num_features
    assert torch.equal(network.forward_head(features), network(images))
    assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)


def test_without_classes_a_network_gives_the_classifiers_input(network, images):
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    headless = copy.deepcopy(network)
    headless.reset_classifier(0)
    assert torch.equal(headless(images), expected)
    assert headless.num_classes == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_created_without_classes(name, images):
    network = make_network(name, num_classes=0)
    assert network(images).shape == (2, network.head_hidden_size)


def test_a_new_classifier_has_the_networks_type_and_mode(network):
    network = copy.deepcopy(network).double().train()
    network.reset_classifier(3, "max")
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert network(x).shape == (2, 3)
    assert network.get_classifier().training
    assert network.get_classifier() is network.get_submodule(network.get_classifier(name_only=True))


@pytest.mark.parametrize("name", WITHOUT_HIDDEN_HEAD)
def test_pooling_is_that_of_its_name(name, images):
    network = make_network(name, num_classes=0)
    maps = network.forward_features(images)
    mean, largest = maps.mean((2, 3)), maps.amax((2, 3))
    expected = {"": maps, "max": largest, "avgmax": (mean + largest) / 2, "catavgmax": torch.cat([mean, largest], 1)}
    for pool_type, pooled in expected.items():
        network.reset_classifier(0, pool_type)
        torch.testing.assert_close(network(images), pooled)


def test_mistakes_of_heads_and_indices_are_sentences(network, images):
    for mistake, message in (
        (lambda net: net.reset_classifier(-1), "num_classes=-1 must be a whole number"),
        (lambda net: net.reset_classifier(2, "sum"), "global_pool=sum is not known"),
        (lambda net: net.reset_classifier(2, ""), "global_pool=''"),
        (lambda net: net.forward_intermediates(images, indices=[9]), r"indices=\[9\] must be a number from 1 to"),
        (lambda net: net.forward_intermediates(images, indices=0), "indices=0 must be a number from 1 to"),
        (lambda net: net.forward_intermediates(images, output_fmt="NLC"), "output_fmt=NLC is not known"),
    ):
        with pytest.raises(UserError, match=message):
            mistake(copy.deepcopy(network))


def test_intermediates_are_the_outputs_of_their_modules(network, images):
    outputs = {}
    names = [info["module"] for info in network.feature_info]
    handles = [
        network.get_submodule(name).register_forward_hook(lambda *args, name=name: outputs.update({name: args[2]}))
        for name in names
    ]
    features, maps = network.forward_intermediates(images)
    for handle in handles:
        handle.remove()
    assert all(torch.equal(found, outputs[name]) for found, name in zip(maps, names, strict=True))
    assert torch.equal(features, network.forward_features(images))
    for info, found in zip(network.feature_info, maps, strict=True):
        assert found.shape[1] == info["num_chs"]
        assert found.shape[2] == 32 // info["reduction"]
    last, only = network.forward_intermediates(images, indices=[1], stop_early=True)
    assert torch.equal(last, maps[1])
    assert torch.equal(only[0], maps[1])
    assert len(network.forward_intermediates(images, indices=2, intermediates_only=True)) == 2


def test_a_pruned_network_ends_at_its_last_map(network, images):
    maps = network.forward_intermediates(images, intermediates_only=True)
    for index in range(len(maps)):
        pruned = copy.deepcopy(network)
        assert pruned.prune_intermediate_layers([index]) == [index]
        assert torch.equal(pruned(images), maps[index])
        assert pruned.num_features == maps[index].shape[1]
        pruned.reset_classifier(4, "avg")
        pruned.train()(images).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())
    pruned = copy.deepcopy(network)
    pruned.prune_intermediate_layers([len(maps) - 1], prune_head=False)
    assert torch.equal(pruned(images), network(images))


def test_checkpointing_changes_neither_gradients_nor_statistics_but_memory(network, images):
    results = []
    for enable in (False, True):
        trained = copy.deepcopy(network).train()
        trained.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        with LiveTensors() as live:
            loss = trained(images).square().sum()
            held = live.count_bytes()
            loss.backward()  # under the same mode: what is computed twice must be computed in the same way
        results.append((held, {name: p.grad for name, p in trained.named_parameters()}, trained.state_dict()))
    (plain, gradients, state), (checkpointed, same_gradients, same_state) = results
    assert all(torch.equal(gradients[name], same_gradients[name]) for name in gradients)
    assert all(torch.equal(state[name], same_state[name]) for name in state)
    assert checkpointed < 0.8 * plain


def test_a_compiled_network_counts_batches_once_with_checkpointing():
    overrides = ["model.depth=[1]", "model.layout=C", "model.strides=[1]", "model.grad_checkpointing=true"]
    network = create("tiny", image_size=8, overrides=overrides).train()
    plain = copy.deepcopy(network)
    for run in (plain, torch.compile(network, backend="aot_eager")):
        run(torch.ones(2, 3, 8, 8)).sum().backward()
    for (name, one), other in zip(plain.named_buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    assert network.stages[0][0].norm1.num_batches_tracked == 1


def test_a_configs_key_turns_checkpointing_on():
    assert create("tiny", image_size=8, overrides=["model.grad_checkpointing=true"]).grad_checkpointing
    assert create("mobilenet_v2", overrides=["model.grad_checkpointing=true"]).features.grad_checkpointing
    assert create("efficientnet", overrides=["model.grad_checkpointing=true"]).features[2].grad_checkpointing


def test_torchvisions_feature_extractor_takes_mixers_as_one_node(images):
    network = make_network("resnet")
    mixers = [type(block.mixer) for stage in network.stages for block in stage]
    extractor = create_feature_extractor(network, ["stages.0.1"], tracer_kwargs={"leaf_modules": mixers})
    expected = network.forward_intermediates(images, indices=[1], intermediates_only=True)[0]
    assert torch.equal(extractor(images)["stages.0.1"].relu(), expected.relu())


def test_the_classifier_of_a_headless_network_is_an_identity():
    network = make_network("efficientnet", num_classes=0)
    assert isinstance(network.get_classifier(), nn.Identity)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_can_be_stored(name):
    network, file = make_network(name).eval(), io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(torch.load(file, weights_only=False)(images), network(images))
