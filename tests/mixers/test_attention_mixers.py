"""The attention mixers of Tables 3 and 4 against their papers' definitions in float64."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import (
    Augmented,
    Axial,
    Conv,
    DoubleAttention,
    EfficientAttention,
    LinearAttention,
    LocalAttention,
    LocalRelation,
    PatchwiseAttention,
)
from tests.reference.attention import attention
from tests.reference.linear_attention import double_attention, efficient_attention
from tests.reference.neighborhood import local_attention, local_relation, patchwise
from tests.reference.pooling import average_pool

# One tile, several with rest, tiles in one direction only, less than a neighborhood.
SIZES = [(4, 4), (9, 11), (3, 18), (1, 2)]


def array(tensor):
    return tensor.detach().numpy()


def matrix(conv):
    return array(conv.weight)[:, :, 0, 0]


def compare(layer, x, expected, stride=1):
    if stride == 2:
        expected = [average_pool(image) for image in expected]
    np.testing.assert_allclose(array(layer(x)), np.stack(expected), rtol=1e-10, atol=1e-12)


def images(channels, size):
    torch.manual_seed(1)
    return torch.randn(2, channels, *size, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_local_attention(size, stride):
    torch.manual_seed(0)
    layer = LocalAttention(12, stride=stride, scope=5, heads=2).double()
    x = images(12, size)
    weights = np.split(matrix(layer.qkv), 3)
    tables = array(layer.row_table), array(layer.column_table)
    compare(layer, x, [local_attention(image, *weights, *tables, heads=2) for image in x.numpy()], stride)


def test_local_attention_over_the_whole_map_is_global_attention():
    torch.manual_seed(0)
    layer = LocalAttention(8, scope=11, heads=2).double()
    with torch.no_grad():
        layer.row_table.zero_()
        layer.column_table.zero_()
    x = images(8, (6, 5))
    query, key, value = layer.qkv(x).flatten(2).unflatten(1, (3, 2, 4)).mT.unbind(1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(layer(x), expected.mT.reshape(x.shape))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_local_relation(size, stride):
    torch.manual_seed(0)
    layer = LocalRelation(12, stride=stride, scope=5, group_channels=4).double()

    def prior(offset):
        return array(layer.prior(torch.from_numpy(offset)))

    prior.scope = 5
    x = images(12, size)
    query, key = np.split(matrix(layer.query_key), 2)
    compare(layer, x, [local_relation(image, query, key, prior, group_channels=4) for image in x.numpy()], stride)


@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_patchwise_attention(size, stride):
    torch.manual_seed(0)
    layer = PatchwiseAttention(8, stride=stride, scope=3, group_channels=4, reduction=2).double()
    patch = array(layer.from_patch.weight).transpose(0, 2, 3, 1).reshape(4, -1)
    first = np.concatenate([matrix(layer.from_query), patch], 1)
    weights = first, array(layer.from_query.bias), matrix(layer.weigh), array(layer.weigh.bias)
    x = images(8, size)
    expected = [
        patchwise(image, matrix(layer.phi), matrix(layer.psi), *weights, scope=3, group_channels=4)
        for image in x.numpy()
    ]
    compare(layer, x, expected, stride)


@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_axial_attention_is_attention_in_each_column_then_in_each_row(size, stride):
    torch.manual_seed(0)
    layer = Axial(8, stride=stride, feature_size=size, heads=2).double()
    columns, rows = layer[0], layer[1]
    none = np.zeros((1, 4))
    expected = []
    for image in images(8, size).numpy():
        weights = np.split(matrix(columns.qkv), 3)
        lines = [
            attention(image[:, :, j : j + 1], *weights, array(columns.table), none, heads=2) for j in range(size[1])
        ]
        image = np.concatenate(lines, 2)
        weights = np.split(matrix(rows.qkv), 3)
        lines = [attention(image[:, i : i + 1], *weights, none, array(rows.table), heads=2) for i in range(size[0])]
        expected.append(np.concatenate(lines, 1))
    compare(layer, images(8, size), expected, stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_augmented_convolution_is_the_two_side_by_side(stride):
    torch.manual_seed(0)
    layer = Augmented(
        16, stride=stride, feature_size=(6, 5), heads=2, value_ratio=0.5, key_ratio=0.5, min_key_depth=1
    ).double()
    assert layer.depths == [4, 4, 4]
    x = images(16, (6, 5))
    qkv = matrix(layer.qkv).reshape(2, 3, 4, 16).transpose(1, 0, 2, 3).reshape(3, 8, 16)
    tables = array(layer.row_table), array(layer.column_table)
    convolved = array(torch.nn.functional.conv2d(x, layer.conv.weight, stride=stride, padding=1))
    for image, conv, found in zip(x.numpy(), convolved, array(layer(x)), strict=True):
        read = average_pool(image) if stride == 2 else image
        expected = np.einsum("oc,chw->ohw", matrix(layer.out), attention(read, *qkv, *tables, heads=2))
        np.testing.assert_allclose(found, np.concatenate([conv, expected]), rtol=1e-10, atol=1e-12)


def with_norm(block):
    """A block whose norm is no longer zero, in evaluation."""
    torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
    torch.nn.init.normal_(block.norm.bias)
    torch.nn.init.normal_(block.norm.running_mean)
    torch.nn.init.uniform_(block.norm.running_var, 0.5, 2)
    return block.double().eval()


def normed(y, norm):
    mean, var, gain, bias = (array(t)[:, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (y - mean) / np.sqrt(var + norm.eps) * gain + bias


def test_double_attention():
    torch.manual_seed(0)
    block = with_norm(DoubleAttention(12, ratio=3))
    x = images(12, (3, 5))
    weights = [matrix(conv) for conv in (block.features, block.gather, block.distribute, block.out)]
    expected = [
        image + normed(double_attention(image.reshape(12, -1), *weights), block.norm).reshape(image.shape)
        for image in x.numpy()
    ]
    compare(block, x, expected)


def test_efficient_attention():
    torch.manual_seed(0)
    block = with_norm(EfficientAttention(12, ratio=2, heads=3))
    x = images(12, (3, 5))
    query, key, value = np.split(matrix(block.qkv), 3)
    weights = query, key, value, matrix(block.out)
    expected = [
        image + normed(efficient_attention(image.reshape(12, -1), *weights, heads=3), block.norm).reshape(image.shape)
        for image in x.numpy()
    ]
    compare(block, x, expected)


@pytest.mark.parametrize("form", ["double", "efficient"])
def test_linear_attention_brings_its_gate_and_starts_as_the_convolution(form):
    mixer = LinearAttention(form)
    assert isinstance(mixer(16, stride=1, feature_size=(4, 4)), Conv)
    gate = mixer.gate(64)
    x = torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(gate(x), x)


def test_local_attention_is_translation_equivariant():
    torch.manual_seed(0)
    for layer in (LocalAttention(8, scope=3, heads=2), LocalRelation(8, scope=3)):
        layer = layer.double()
        x = torch.zeros(1, 8, 20, 20, dtype=torch.float64)
        x[..., 5:9, 6:11] = torch.randn(1, 8, 4, 5, dtype=torch.float64)
        moved = x.roll((3, 4), (2, 3))
        torch.testing.assert_close(layer(moved)[..., 4:, 5:], layer(x).roll((3, 4), (2, 3))[..., 4:, 5:])


def test_memory_of_local_attention_grows_with_the_positions():
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    sizes = {}
    for side in (16, 32):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            LocalAttention(8, scope=7, heads=2)(torch.randn(1, 8, side, side))
        sizes[side] = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}.values())
    assert sizes[32] < 4.2 * sizes[16]


def test_mistakes():
    with pytest.raises(UserError, match="scope=4 has no middle"):
        LocalAttention(16, scope=4)
    with pytest.raises(UserError, match="group_channels=5 does not divide the 16 channels"):
        LocalRelation(16, group_channels=5)
    with pytest.raises(UserError, match="reduction=32 must be from 1 to the 16 channels"):
        PatchwiseAttention(16, reduction=32)
    with pytest.raises(UserError, match="leave the convolution none"):
        Augmented(16, feature_size=(4, 4), value_ratio=1.0)
    with pytest.raises(UserError, match="form=triple of linear attention is not known; choose one of double"):
        LinearAttention("triple")
    with pytest.raises(UserError, match="heads=3 does not divide the 16 channels"):
        Axial(16, feature_size=(4, 4), heads=3)
