"""Operators differentiated again, and under the transforms of torch.func."""

import pytest
import torch
from torch.autograd import forward_ad

from lambdanets.ops import METHODS, lambda_map
from tests.methods import needs_compiler

# Those with an operator of their own; without a GPU, that of Triton computes as "scores" does.
OPERATORS = ["scores", "tiles", "row_fft", "fourier", pytest.param("kernel", marks=needs_compiler), "triton"]


def make_inputs(batch=2, *, height=3, width=4, requires_grad=True):
    torch.manual_seed(0)
    shapes = (batch, height, width, 2, 3), (batch, height, width, 2, 2), (3, 2, 5, 3), (batch, 3, 2)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=requires_grad) for shape in shapes]


def plain_product(query, values, table, content):
    """Sum over the pairs of positions, one einsum each, as the paper has it."""
    height, width = query.shape[1:3]
    rows, columns = table.shape[2:]
    y = torch.einsum("byxhk,bkv->byxhv", query, content)
    for i in range(-(rows // 2), rows // 2 + 1):
        for j in range(-(columns // 2), columns // 2 + 1):
            shifted = torch.zeros_like(values)
            y0, y1, x0, x1 = max(0, -i), min(height, height - i), max(0, -j), min(width, width - j)
            if y0 < y1 and x0 < x1:
                shifted[:, y0:y1, x0:x1] = values[:, y0 + i : y1 + i, x0 + j : x1 + j]
            embedding = table[:, :, i + rows // 2, j + columns // 2]
            y = y + torch.einsum("byxhk,ku,byxuv->byxhv", query, embedding, shifted)
    return y


def penalty_gradients(product, inputs):
    """Return the gradients of a gradient penalty."""
    first = torch.autograd.grad(product(*inputs).square().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(grad.square().sum() for grad in first), inputs)


@pytest.mark.parametrize("name", OPERATORS)
def test_second_derivatives_are_those_of_numerical_differentiation(name):
    assert torch.autograd.gradgradcheck(METHODS[name], make_inputs(1, height=2, width=3))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradient_penalties_are_those_of_plain_sums(name):
    inputs = make_inputs()
    for penalty, expected in zip(
        penalty_gradients(METHODS[name], inputs), penalty_gradients(plain_product, inputs), strict=True
    ):
        torch.testing.assert_close(penalty, expected)


def test_third_derivatives_exist():
    def penalty(*inputs):
        first = torch.autograd.grad(METHODS["scores"](*inputs).square().sum(), inputs, create_graph=True)
        return sum(grad.square().sum() for grad in first)

    assert torch.autograd.gradgradcheck(penalty, make_inputs(1, height=1, width=2), fast_mode=True)


@pytest.mark.parametrize("unused", range(4))
def test_second_derivatives_along_some_of_the_inputs(unused):
    inputs = make_inputs(1, height=2, width=2)
    inputs[unused].requires_grad_(False)
    assert torch.autograd.gradgradcheck(METHODS["scores"], inputs)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_per_image_are_those_of_a_loop(name):
    query, values, table, content = make_inputs(3, requires_grad=False)

    def loss(table, query, values, content):
        return METHODS[name](query[None], values[None], table, content[None]).square().sum()

    per_image = torch.vmap(torch.func.grad(loss), (None, 0, 0, 0))(table, query, values, content)
    table.requires_grad_()
    for image, gradient in enumerate(per_image):
        part = slice(image, image + 1)
        y = METHODS[name](query[part], values[part], table, content[part])
        torch.testing.assert_close(gradient, torch.autograd.grad(y.square().sum(), table)[0])


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_mode_agrees_with_the_backward(name):
    inputs = make_inputs(requires_grad=False)
    tangents = [torch.randn_like(tensor) for tensor in inputs]
    y, derivative = torch.func.jvp(METHODS[name], tuple(inputs), tuple(tangents))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(METHODS[name](*duals)).tangent, derivative)
    grad = torch.randn_like(y)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(METHODS[name](*inputs), inputs, grad)
    directional = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    torch.testing.assert_close((derivative * grad).sum(), directional)


def test_the_default_method_is_an_operator_again_after_a_transform():
    inputs = make_inputs(requires_grad=False)
    torch.func.jvp(lambda_map, tuple(inputs), tuple(inputs))
    y = METHODS["scores"](*[tensor.requires_grad_() for tensor in inputs])
    assert "scores_first" in str(y.grad_fn)
