"""What TensorBoard shows of a network."""

import copy

import pytest
import torch
from torch import nn

import lambdanets
from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization, evaluating
from lambdanets.callbacks.drawing import diverging, matrix, rising, tiles
from lambdanets.callbacks.gradient_norms import stage_of
from lambdanets.callbacks.lambda_visualization import inputs, key_entropy, lambda_layers, pictures
from lambdanets.callbacks.prediction_visualization import table
from lambdanets.callbacks.receptive_field_visualization import half_width, receptive_fields
from lambdanets.mixers import LambdaLayer


@pytest.fixture
def network():
    torch.manual_seed(0)
    return lambdanets.create("tiny", mixer="lambda", image_size=8, in_channels=1, num_classes=10).eval()


def test_what_a_query_sees_adds_up_to_the_layers_output(monkeypatch):
    """The maps and lambdas that are drawn are those that the layer computes with: their sums are its output."""
    drawn = []
    monkeypatch.setattr(
        "lambdanets.callbacks.lambda_visualization.diverging", lambda x: drawn.append(x) or diverging(x)
    )
    torch.manual_seed(0)
    layer = LambdaLayer(8, scope=5, key_depth=4, heads=2, intra_depth=1).double().eval()
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    found = pictures(layer, x)
    assert set(found) == {"content", "position"}
    content_map, content, position_map, position = drawn
    with torch.no_grad():
        y = layer(x)[0, :, 3, 3].unflatten(0, (2, 4))  # (h, v)
        query, value, _ = layer.project(x, x, torch.contiguous_format)
    seen = (content_map + position_map).double()
    torch.testing.assert_close(
        torch.einsum("hyx,yxv->hv", seen, value[0, :, :, 0]), y, rtol=1e-5, atol=1e-5, check_dtype=False
    )
    torch.testing.assert_close(query[0, 3, 3] @ (content + position).double().T, y, rtol=1e-5, atol=1e-5)
    # A query doesn't see by position what lies outside of its scope.
    outside = torch.ones(6, 7, dtype=torch.bool)
    outside[1:6, 1:6] = False
    assert not position_map[:, outside].any()
    assert position_map[:, ~outside].all()


def test_entropy_of_keys():
    layer = LambdaLayer(8, scope=3, key_depth=4, heads=2).eval()
    x = torch.randn(2, 8, 5, 5)
    nn.init.zeros_(layer.qkv.weight)
    assert key_entropy(layer, x) == pytest.approx(1, abs=1e-6)  # all positions alike
    nn.init.constant_(layer.qkv.weight, 1e4)
    assert key_entropy(layer, x) == pytest.approx(0, abs=1e-3)  # one only
    assert key_entropy(LambdaLayer(8, scope=3, key_norm="l2"), x) is None


def test_layers_are_found_with_their_inputs(network):
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        found = inputs(network, x)
    assert [name for name, _, _ in found] == [name for name, _ in lambda_layers(network)]
    assert found[0][0] == "c2/block1"
    with torch.no_grad():
        stem = network.stem(x)
        block = network.stages[0][0]
        torch.testing.assert_close(found[0][2], block.act(block.norm1(block.conv1(stem))))
    assert not any(layer._forward_pre_hooks for _, layer, _ in found)


def test_receptive_field_of_convolutions_is_theirs():
    """Of 3 × 3 convolutions with weights of one, the field is known: products of binomials, and nothing beyond."""
    convolutions = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(2)])
    for layer in convolutions:
        nn.init.ones_(layer.weight)

    class Two(nn.Module):
        def features(self, x):
            return [convolutions[0](x), convolutions[1](convolutions[0](x))]

    one, two = receptive_fields(Two(), torch.randn(3, 1, 9, 9))
    line = torch.zeros(9)
    line[2:7] = torch.tensor([1.0, 2, 3, 2, 1])
    torch.testing.assert_close(two, line[:, None] * line[None])
    assert one.sum() == 9
    # Nine pixels within one of the middle, and 49 of 81 parts of the other within it too.
    assert half_width(one) == half_width(two) == pytest.approx(2 / 9)
    assert half_width(torch.ones(9, 9)) == pytest.approx(6 / 9)
    assert half_width(torch.zeros(9, 9)) == 0


def test_looking_leaves_no_trace_in_the_network(network):
    network.train()
    network.stem.eval()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    with evaluating(network), torch.no_grad():
        receptive_fields(network, torch.randn(2, 1, 8, 8))
        for _, layer, x in inputs(network, torch.randn(2, 1, 8, 8)):
            pictures(layer, x[:1])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_looks_are_as_many_as_their_share_of_the_time_allows(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Look(BudgetedVisualization):
        looks = 0

        def draw(self, writer, trainer, task):
            raise AssertionError

        def look(self, trainer, task):
            self.looks += 1
            self.last = 2.0
            self.spent += 2.0

    class Trainer:
        sanity_checking = False
        global_step = 7

    look = Look(time_budget=0.01)
    look.on_train_start(Trainer, None)
    for second in range(0, 1000):
        clock[0] = float(second)
        look.on_validation_end(Trainer, None)
    assert look.looks == 4  # at 10 s, as a guess, and then at 400, 600 and 800 s: never more than 1 %
    look.on_train_end(Trainer, None)
    assert look.looks == 5


def test_colours_and_tiles():
    x = torch.tensor([[-2.0, 0.0], [1.0, 2.0]])
    red, green, blue = diverging(x)
    assert (red[0, 1], green[0, 1], blue[0, 1]) == (1, 1, 1)
    assert red[0, 0] < blue[0, 0]
    assert red[1, 1] > blue[1, 1]
    assert rising(torch.zeros(2, 2)).min() == 1
    assert tiles(torch.rand(5, 3, 4, 6), 3, gap=1).shape == (3, 2 * 5, 3 * 7)
    assert matrix(torch.eye(100), [""] * 100).shape == (3, 500, 500)


def test_the_table_names_the_worst_classes_and_what_they_are_taken_for():
    confusion = torch.tensor([[9, 1, 0], [2, 2, 0], [0, 0, 0]])
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    lines = table(shares.diagonal(), confusion, confusion.sum(1) > 0, ["cat", "dog", "owl"]).splitlines()[2:]
    assert lines == ["| dog | 4 | 50.0% | cat (2) |", "| cat | 10 | 90.0% | dog (1) |"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("model.stages.2.0.conv1.weight", "c4"),
        ("model.stem.0.weight", "stem"),
        ("model.classifier.bias", "classifier"),
        ("model.backbone.body.stages.0.1.mixer.table", "c2"),
        ("model.backbone.fpn.inner_blocks.0.0.weight", "fpn"),
        ("model.roi_heads.box_head.fc6.weight", "roi_heads"),
    ],
)
def test_stages_of_parameters(name, stage):
    assert stage_of(name) == stage
