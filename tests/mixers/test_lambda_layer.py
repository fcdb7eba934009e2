"""The lambda layers against the definition, and their properties."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaConv, LambdaLayer
from lambdanets.ops import global_position_lambdas, local_position_lambdas, resize_table, scope_to_offsets
from tests.reference.lambda_layer import lambda_layer
from tests.reference.pooling import average_pool


def randomised(layer):
    """In float64 and evaluation mode, with statistics and gains that are not the initial ones."""
    layer.double().eval()
    for norm in (layer.query_norm, layer.value_norm):
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            torch.nn.init.normal_(tensor)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    torch.nn.init.normal_(layer.table)
    return layer


def by_definition(layer, x):
    weights = layer.qkv.weight[:, :, 0, 0].detach().numpy()
    weight_q, weight_k, weight_v = np.split(weights, np.cumsum(layer.sections)[:-1])
    norms = [
        [tensor.detach().numpy() for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        for norm in (layer.query_norm, layer.value_norm)
    ]
    return np.stack(
        [
            lambda_layer(
                image.numpy(),
                weight_q,
                weight_k,
                weight_v,
                *norms,
                layer.table.detach().numpy(),
                heads=layer.heads,
                key_depth=layer.key_depth,
                intra_depth=layer.intra_depth,
                dilation=getattr(layer, "dilation", 1),
            )
            for image in x
        ]
    )


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1), (6, 2)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LambdaLayer, {"scope": "global"}),
        (LambdaLayer, {"scope": "global", "intra_depth": 3, "heads": 4, "key_depth": 5}),
        (LambdaLayer, {"scope": 3}),
        (LambdaLayer, {"scope": 3, "intra_depth": 2}),
        (LambdaLayer, {"scope": 9}),
        (LambdaConv, {"scope": 3}),
        (LambdaConv, {"scope": 5, "intra_depth": 2, "dilation": 2}),
    ],
)
def test_output_is_the_definition(kind, options, size):
    torch.manual_seed(0)
    options = {"key_depth": 3, "heads": 2} | options
    layer = randomised(kind(8, feature_size=size, **options))
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).detach().numpy(), by_definition(layer, x), rtol=1e-10, atol=1e-11)


def test_stride_is_an_average_pooling_behind_the_layer():
    torch.manual_seed(0)
    layer = randomised(LambdaLayer(8, stride=2, scope=3, key_depth=3, heads=2))
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    expected = average_pool(by_definition(layer, x)[0])
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("scope", ["global", 3])
def test_gradients(scope):
    torch.manual_seed(0)
    layer = randomised(LambdaLayer(4, feature_size=(3, 4), scope=scope, key_depth=2, heads=2, intra_depth=2))
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    names = ["qkv.weight", "table", "query_norm.weight", "value_norm.bias"]
    parameters = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters))


@pytest.mark.parametrize("method", ["global", "local"])
def test_position_lambdas_move_with_their_values(method):
    torch.manual_seed(0)
    values = torch.zeros(2, 1, 3, 7, 9, dtype=torch.float64)
    values[..., 2:4, 2:5] = torch.randn(2, 1, 3, 2, 3)
    moved = values.roll((2, 3), dims=(3, 4))
    if method == "global":
        table = torch.randn(4, 1, 13, 17, dtype=torch.float64)
        before, after = global_position_lambdas(values, table), global_position_lambdas(moved, table)
    else:
        table = torch.randn(4, 1, 5, 5, dtype=torch.float64)
        before, after = local_position_lambdas(values, table), local_position_lambdas(moved, table)
    assert before.abs().sum() > 0
    torch.testing.assert_close(after[..., 2:, 3:], before[..., :-2, :-3], rtol=1e-12, atol=1e-12)


def test_scope_is_what_a_query_sees():
    layer = randomised(LambdaLayer(4, scope=3, key_depth=2, heads=1))
    values = torch.zeros(1, 1, 4, 9, 9, dtype=torch.float64)
    values[..., 4, 4] = 1
    seen = layer.position_lambdas(values).abs().sum((0, 1, 2)) > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = True
    assert torch.equal(seen, expected)


def test_local_is_global_with_a_table_that_is_zero_outside_the_scope():
    torch.manual_seed(0)
    values = torch.randn(2, 2, 3, 4, 6, dtype=torch.float64)
    for side in (1, 3, 5, 9, 13):
        table = torch.randn(2, 2, side, side, dtype=torch.float64)
        spread = scope_to_offsets(table, 4, 6)
        assert spread.shape == (2, 2, 7, 11)
        torch.testing.assert_close(global_position_lambdas(values, spread), local_position_lambdas(values, table))


def test_a_table_resized_keeps_its_corners_and_its_middle():
    table = torch.randn(3, 2, 7, 9)
    resized = resize_table(table, 7, 8)
    assert resized.shape == (3, 2, 13, 15)
    for here, there in (((0, 0), (0, 0)), ((3, 4), (6, 7)), ((6, 8), (12, 14))):
        torch.testing.assert_close(resized[:, :, there[0], there[1]], table[:, :, here[0], here[1]])


def test_global_layer_accepts_another_feature_size():
    layer = LambdaLayer(8, feature_size=(4, 4), scope="global", heads=2)
    assert layer(torch.randn(2, 8, 6, 5)).shape == (2, 8, 6, 5)


@pytest.mark.parametrize("scope", ["global", 3])
def test_bfloat16_stays_close_to_float32(scope):
    torch.manual_seed(0)
    layer = LambdaLayer(32, feature_size=(8, 8), scope=scope)
    x = torch.randn(4, 32, 8, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x).float()
    assert ((found - expected).norm() / expected.norm()).item() < 0.03


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads=3 does not divide the 16 channels"),
        ({"scope": 4}, "scope=4 has no middle"),
        ({"scope": "all"}, "scope=all has no middle"),
        ({"scope": "global"}, "feature_size"),
        ({"key_depth": 0}, "key_depth=0"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        LambdaLayer(16, **options)
