"""The lambda layer against its definition, and its properties."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaConv, LambdaLayer
from lambdanets.ops import causal_mask, lambda_map, scope_to_offsets
from lambdanets.peers import BiasedLambda
from tests.methods import EVERY_METHOD
from tests.reference.lambda_layer import lambda_layer
from tests.reference.pooling import average_pool

SMALL = {"key_depth": 3, "heads": 2}


def randomize(layer):
    """A layer in float64 and evaluation mode, whose statistics and gains have no longer their initial values."""
    layer.double().eval()
    for norm in (layer.query_norm, layer.value_norm):
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    if layer.table is not None:
        nn.init.normal_(layer.table)
    return layer


def by_definition(layer, x, context=None):
    weights = layer.qkv.weight.detach().numpy()
    weight_q, weight_v, weight_k = np.split(weights, np.cumsum(layer.sections)[:-1])
    norms = [
        [tensor.detach().numpy() for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        if isinstance(norm, nn.BatchNorm2d)
        else None
        for norm in (layer.query_norm, layer.value_norm)
    ]
    return np.stack(
        [
            lambda_layer(
                image.numpy(),
                weight_q,
                weight_k if layer.sections[2] else None,
                weight_v,
                *norms,
                None if layer.table is None else layer.table.detach().numpy(),
                heads=layer.heads,
                key_depth=layer.key_depth,
                intra_depth=layer.intra_depth,
                dilation=layer.dilation,
                context=None if context is None else context[index].numpy(),
                key_norm=layer.key_norm,
                query_softmax=layer.query_softmax,
            )
            for index, image in enumerate(x)
        ]
    )


def close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1), (6, 2)], ids=str)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LambdaLayer, {"scope": "global"}),
        (LambdaLayer, {"scope": "global", "intra_depth": 3, "heads": 4, "key_depth": 5}),
        (LambdaLayer, {"scope": 3, "intra_depth": 2}),
        (LambdaLayer, {"scope": 9}),
        (LambdaLayer, {"scope": (1, 5)}),
        (LambdaLayer, {"scope": 3, "content": False}),
        (LambdaLayer, {"position": False, "intra_depth": 2}),
        (LambdaLayer, {"scope": 3, "key_norm": "l2", "intra_depth": 2}),
        (LambdaLayer, {"scope": 3, "key_norm": "none"}),
        (LambdaLayer, {"scope": 3, "query_softmax": True}),
        (LambdaLayer, {"scope": "global", "batch_norm": False}),
        (LambdaConv, {"scope": 3}),
        (LambdaConv, {"scope": 5, "intra_depth": 2, "dilation": 2}),
    ],
    ids=str,
)
def test_output_is_the_definition(kind, options, size):
    torch.manual_seed(0)
    layer = randomize(kind(8, feature_size=size, **SMALL | options))
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    close(layer(x), by_definition(layer, x))


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_every_method_gives_the_same_layer(method):
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, scope=3, method=method, **SMALL))
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    close(layer(x), by_definition(layer, x))


@pytest.mark.parametrize("scope", ["global", 3])
def test_a_context_of_its_own(scope):
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, scope=scope, feature_size=(3, 5), **SMALL))
    x, context = (torch.randn(2, 8, *size, dtype=torch.float64) for size in ((3, 4), (2, 5)))
    close(layer(x, context), by_definition(layer, x, context))
    everything = torch.ones(12, 10, dtype=torch.bool)
    close(layer(x, context, everything), by_definition(layer, x, context))


def test_a_context_of_another_size_needs_a_layer_that_takes_it():
    x, context = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 2, 5)
    for layer in (LambdaConv(8, scope=3, dilation=2, **SMALL), LambdaConv(8, scope=3, strided=True, stride=2, **SMALL)):
        with pytest.raises(UserError, match=r"got 3×4 positions and a context of 2×5: give both the same size"):
            layer(x, context)
    with pytest.raises(UserError, match=r"A causal layer got 3×4 positions and a context of 2×5: give both"):
        LambdaLayer(8, scope=3, causal=True, **SMALL)(x, context)


@pytest.mark.parametrize("training", [False, True])
def test_autocast_leaves_float64_as_it_is(training):
    torch.manual_seed(0)
    layer = LambdaLayer(64, scope=7).double().train(training)
    x, exact = torch.randn(2, 64, 8, 8, dtype=torch.float64), copy.deepcopy(layer)
    expected = exact(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.query_norm.running_var, exact.query_norm.running_var)


@pytest.mark.parametrize("training", [False, True])
def test_another_data_type_than_that_of_the_weights_is_an_error_without_autocast(training):
    with pytest.raises(RuntimeError, match="dtype"):
        LambdaLayer(64, scope=7).train(training)(torch.randn(2, 64, 8, 8, dtype=torch.bfloat16))


def test_a_sequence_is_a_map_of_one_row():
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, scope="global", feature_size=(1, 7), **SMALL))
    assert layer.table.shape == (3, 1, 1, 13)
    x = torch.randn(2, 8, 7, dtype=torch.float64)
    close(layer(x)[:, :, None], by_definition(layer, x[:, :, None]))


def test_without_positions_the_order_of_a_set_does_not_matter():
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, position=False, **SMALL))
    x, order = torch.randn(2, 8, 7, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(layer(x[..., order]), layer(x)[..., order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_stride_is_an_average_pooling_behind_the_layer(stride):
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, stride=stride, scope=3, **SMALL))
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    expected = by_definition(layer, x)[0]
    close(layer(x)[0], average_pool(expected) if stride == 2 else expected)


@pytest.mark.parametrize("shape", [(6,), (3, 4)], ids=str)
@pytest.mark.parametrize("key_norm", ["softmax", "l2"])
@pytest.mark.parametrize("kind", [LambdaLayer, LambdaConv])
def test_a_causal_layer_depends_on_the_past_only(kind, key_norm, shape):
    torch.manual_seed(0)
    layer = randomize(kind(8, scope=3, causal=True, key_norm=key_norm, **SMALL))
    x = torch.randn(1, 8, *shape, dtype=torch.float64, requires_grad=True)
    y = layer(x).flatten(2)
    for position in range(y.shape[2]):
        (grad,) = torch.autograd.grad(y[..., position].sum(), x, retain_graph=True)
        assert grad.flatten(2)[..., position + 1 :].count_nonzero() == 0
        assert grad.flatten(2)[..., : position + 1].abs().sum((0, 1)).min() > 0


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_mask_that_hides_nothing_changes_nothing(dilation):
    torch.manual_seed(0)
    layer = randomize(LambdaConv(8, scope=3, dilation=dilation, intra_depth=2, **SMALL))
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    everything = torch.ones(12, 12, dtype=torch.bool)
    torch.testing.assert_close(layer(x, mask=everything), layer(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("position", [False, True])
def test_what_a_subclass_adds_to_the_content_lambda_stays_under_a_mask(position, causal):
    torch.manual_seed(0)
    layer = randomize(BiasedLambda(8, scope=3, position=position, causal=causal, **SMALL))
    x, mask = torch.randn(2, 8, 3, 4, dtype=torch.float64), torch.ones(12, 12, dtype=torch.bool)
    unbiased = layer(x)
    torch.nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer(x, mask=mask), layer(x), rtol=1e-11, atol=1e-11)
    assert (layer(x) - unbiased).abs().max() > 0.1


@pytest.mark.parametrize("parts", [{}, {"content": False}, {"position": False}, {"key_norm": "l2"}], ids=str)
@pytest.mark.parametrize(("kind", "options"), [(LambdaLayer, {"scope": "global"}), (LambdaConv, {"dilation": 2})])
def test_a_causal_layer_is_a_layer_with_a_causal_mask(kind, options, parts):
    torch.manual_seed(0)
    layer = randomize(kind(8, intra_depth=2, feature_size=(4, 5), **{"scope": 3, **options}, **parts, **SMALL))
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    expected = layer(x, mask=causal_mask(20))
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    layer.causal = True
    y = layer(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"batch_norm": False, "key_norm": "l2"}, {"query_softmax": True}], ids=str)
@pytest.mark.parametrize("scope", ["global", 3])
def test_gradients(scope, options):
    torch.manual_seed(0)
    layer = LambdaLayer(4, feature_size=(2, 3), scope=scope, key_depth=2, heads=2, intra_depth=2, **options)
    layer = randomize(layer)
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    parameters = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters))


def test_a_query_sees_the_positions_of_its_scope():
    query = torch.ones(1, 9, 9, 1, 2, dtype=torch.float64)
    values = torch.zeros(1, 9, 9, 1, 4, dtype=torch.float64)
    values[:, 4, 4] = 1
    table = torch.rand(2, 1, 3, 3, dtype=torch.float64) + 1
    visible = lambda_map(query, values, table, torch.zeros(1, 2, 4, dtype=torch.float64))[0, :, :, 0].abs().sum(-1) > 1
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = True
    assert torch.equal(visible, expected)


def test_local_is_global_with_a_table_that_is_zero_outside_the_scope():
    torch.manual_seed(0)
    local = randomize(LambdaLayer(8, scope=3, **SMALL))
    global_layer = randomize(LambdaLayer(8, scope="global", feature_size=(4, 6), **SMALL))
    weights = local.state_dict()
    global_layer.load_state_dict(weights | {"table": scope_to_offsets(weights["table"], (4, 6))})
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(global_layer(x), local(x), rtol=1e-11, atol=1e-11)


def test_another_feature_size_interpolates_and_is_logged(caplog):
    caplog.set_level(logging.INFO, logger="lambdanets")
    layer = LambdaLayer(8, feature_size=(4, 4), scope="global", heads=2)
    x = torch.randn(2, 8, 6, 5)
    assert layer(x).shape == layer(x).shape == (2, 8, 6, 5)
    assert [record.getMessage() for record in caplog.records] == [
        "A global lambda layer for 4×4 positions gets 6×5: its position embeddings are interpolated."
    ]
    caplog.clear()
    larger = LambdaLayer(8, feature_size=(6, 5), scope="global", heads=2)
    larger.load_state_dict(layer.state_dict())
    assert "4×4 positions are interpolated to 6×5" in caplog.text
    torch.testing.assert_close(larger.eval()(x), layer.eval()(x))
    assert layer.state_dict()["table"].shape == (16, 1, 7, 7)


@pytest.mark.parametrize("scope", ["global", 3])
def test_autocast_stays_close_to_float32(scope):
    torch.manual_seed(0)
    layer = LambdaLayer(32, feature_size=(8, 8), scope=scope)
    x = torch.randn(4, 32, 8, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x).float()
    assert ((y - expected).norm() / expected.norm()).item() < 0.03
    with torch.autocast("cpu", torch.float16):
        y = layer(x).float()
    assert ((y - expected).norm() / expected.norm()).item() < 0.005


def test_softmax_of_large_keys_is_safe_in_half_precision():
    layer = LambdaLayer(8, scope=3, heads=2)
    with torch.no_grad():
        layer.qkv.weight[sum(layer.sections[:2]) :] *= 1e4
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        y = layer(x)
    y.float().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("scope", ["global", 3])
def test_memory_format_and_non_contiguous_input(scope):
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, feature_size=(5, 6), scope=scope, **SMALL))
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    last = layer(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous()
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for y in (last, layer(turned)):
        torch.testing.assert_close(y, layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"scope": "global"}, {"scope": 3}, {"position": False}])
def test_empty_batch_and_single_position(options):
    layer = LambdaLayer(8, feature_size=(1, 1), heads=2, **options)
    assert layer(torch.randn(3, 8, 1, 1)).shape == (3, 8, 1, 1)
    assert layer.eval()(torch.randn(0, 8, 4, 4)).shape == (0, 8, 4, 4)


@pytest.mark.parametrize("method", ["auto", "scores", "tiles", "row_fft", "fourier"])
def test_the_layer_compiles_to_one_graph(method):
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = randomize(LambdaLayer(8, scope=3, method=method, **SMALL)).train()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    for size in (6, 5):
        inputs = [x[..., :size].clone().requires_grad_() for _ in range(2)]
        outputs = [module(value) for module, value in zip((layer, compiled), inputs, strict=True)]
        for output in outputs:
            output.square().sum().backward()
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-11, atol=1e-11)


def test_one_compiled_graph_serves_all_batches():
    torch._dynamo.reset()
    layer = randomize(LambdaLayer(8, scope=3, **SMALL))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for batch in (2, 3, 7):
        x = torch.randn(batch, 8, 6, 5, dtype=torch.float64)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_takes_any_batch(strict):
    layer = randomize(LambdaLayer(8, scope=3, **SMALL))
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (x[:2],), dynamic_shapes=({0: batch},), strict=strict)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scope", ["global", 3])
def test_an_exported_program_computes_the_same(scope):
    layer = randomize(LambdaLayer(8, scope=scope, feature_size=(6, 6), **SMALL))
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_activation_checkpointing_changes_nothing(causal):
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, scope=3, causal=causal, **SMALL))
    grads = []
    for again in (False, True):
        x = torch.ones(2, 8, 4, 4, dtype=torch.float64).cumsum(3).requires_grad_()
        y = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        y.square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_a_layer_used_twice_adds_its_gradients():
    torch.manual_seed(0)
    layer = randomize(LambdaLayer(8, scope=3, **SMALL))
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    apart = []
    for half in (x[:1], x[1:]):
        layer.zero_grad()
        layer(half).square().sum().backward()
        apart.append(layer.table.grad.clone())
    layer.zero_grad()
    sum(layer(half).square().sum() for half in (x[:1], x[1:])).backward()
    torch.testing.assert_close(layer.table.grad, apart[0] + apart[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads=3 does not divide the 16 channels"),
        ({"scope": 4}, "scope=4 has no middle"),
        ({"scope": "all"}, "scope=all has no middle"),
        ({"scope": (3, 2)}, "has no middle"),
        ({"scope": "global"}, "feature_size"),
        ({"key_depth": 0}, "key_depth=0"),
        ({"content": False, "position": False}, "leave nothing"),
        ({"key_norm": "max"}, "key_norm=max is not known"),
        ({"init": "large"}, "init=large is not known"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        LambdaLayer(16, **options)


@pytest.mark.parametrize("kind", [LambdaLayer, LambdaConv])
@pytest.mark.parametrize(
    ("init", "query_std", "table_std"), [("paper", (16 * 512) ** -0.5, 1.0), ("small", 512**-0.5, 0.02)]
)
def test_initial_weights_have_the_published_standard_deviations(kind, init, query_std, table_std):
    torch.manual_seed(0)
    layer = kind(512, scope=23, key_depth=16, heads=8, intra_depth=2, init=init)
    query, value, key = layer.qkv.weight.detach().split(layer.sections)
    for weights, std in ((query, query_std), (value, 512**-0.5), (key, 512**-0.5), (layer.table.detach(), table_std)):
        assert weights.std() == pytest.approx(std, rel=0.03)  # the estimate's own deviation is below 0.6 %
        assert abs(weights.mean()) < 0.03 * std
    assert layer.qkv.bias is None


def test_an_unknown_method_is_a_mistake():
    with pytest.raises(UserError, match="method=winograd is not known"):
        LambdaLayer(16, method="winograd")(torch.randn(1, 16, 4, 4))
