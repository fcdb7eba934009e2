"""Masked contexts against the definition; no influence of hidden positions."""

import pytest
import torch

from lambdanets.ops import causal_mask, masked, masked_lambda_map
from tests.reference.masked import masked_lambda_map as by_definition


def inputs(size=(3, 4), context=(3, 4)):
    torch.manual_seed(0)
    shapes = [(2, *size, 2, 3), (2, *context, 2, 3), (2, *context, 2, 4), (3, 2, 3, 5)]
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("norm", ["softmax", "l2", "none"])
@pytest.mark.parametrize("parts", ["both", "content", "position"])
@pytest.mark.parametrize("context", [(3, 4), (2, 5)], ids=str)
def test_output_and_gradients_are_the_definition(norm, parts, context):
    query, keys, values, table = inputs(context=context)
    mask = torch.rand(2, 12, context[0] * context[1]) < 0.5
    mask[:, 3] = False  # a query without visible positions
    arguments = query, None if parts == "position" else keys, values, None if parts == "content" else table
    used = [tensor for tensor in arguments if tensor is not None]
    y, expected = masked_lambda_map(*arguments, mask, norm), by_definition(*arguments, mask, norm)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    assert y[:, 0, 3].count_nonzero() == 0
    grad = torch.randn_like(y)
    for actual, other in zip(
        torch.autograd.grad(y, used, grad), torch.autograd.grad(expected, used, grad), strict=True
    ):
        torch.testing.assert_close(actual, other, rtol=1e-10, atol=1e-11)


def test_chunks_make_no_difference(monkeypatch):
    tensors = inputs()
    mask = causal_mask(12)
    expected = masked_lambda_map(*tensors, mask)
    monkeypatch.setattr(masked, "CHUNK", 1)
    torch.testing.assert_close(masked_lambda_map(*tensors, mask), expected, rtol=1e-13, atol=1e-13)


def test_causal_outputs_depend_on_the_past_alone():
    query, keys, values, table = inputs()
    y = masked_lambda_map(query, keys, values, table, causal_mask(12))
    for position in range(12):
        grads = torch.autograd.grad(y[:, position // 4, position % 4].sum(), (keys, values), retain_graph=True)
        for grad in grads:
            by_position = grad.abs().sum((0, 3, 4)).flatten()
            assert by_position[position + 1 :].count_nonzero() == 0
            assert position == 0 or by_position[: position + 1].count_nonzero() == position + 1


def test_huge_keys_beyond_the_mask_change_nothing():
    query, keys, values, table = inputs()
    louder = keys.detach().clone()
    louder[:, -1, -1] = 1e4
    masks = causal_mask(12)
    expected = masked_lambda_map(query, keys, values, table, masks)
    actual = masked_lambda_map(query, louder, values, table, masks)
    torch.testing.assert_close(actual[:, :-1], expected[:, :-1], rtol=0, atol=0)
