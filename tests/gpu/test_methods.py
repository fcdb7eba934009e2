"""Every method of the lambda map against the float64 definition, in three precisions."""

from functools import cache

import pytest
import torch

from lambdanets.ops import METHODS, causal_mask, lambda_map, masked_lambda_map
from lambdanets.ops.cost import Shape, supported_methods
from tests.gpu.conftest import needs_cuda
from tests.ops.test_lambda_map import inputs, output_and_gradients, relative_errors
from tests.reference.lambda_map import lambda_map as by_definition
from tests.reference.masked import masked_lambda_map as masked_by_definition

METHOD_NAMES = [*METHODS, "auto"]
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ("output", "query", "values", "table", "content")
# Map, scope, heads, u: global and local, square and not, larger than a tile and smaller.
CASES = [
    ((7, 7), (13, 13), 4, 1),
    ((9, 11), (7, 7), 4, 1),
    ((6, 20), (5, 23), 2, 1),
    ((8, 8), (15, 15), 1, 4),
    ((5, 3), (9, 9), 2, 2),
    ((1, 33), (1, 65), 4, 1),
]
# Rounding that an exact float32 method may add, as in the tests on the CPU.
SLACK = 1e-5


def plain_formula(query, values, table, content):
    """Compute the lambda map by an expanded table and two matrix products, in the tensors' own precision."""
    height, width = query.shape[1:3]
    rows, columns = (
        torch.arange(side, device=query.device)[None, :] - torch.arange(side, device=query.device)[:, None] + size // 2
        for side, size in zip((height, width), table.shape[2:], strict=True)
    )
    inside = (rows >= 0) & (rows < table.shape[2]), (columns >= 0) & (columns < table.shape[3])
    rows, columns = rows.clamp(0, table.shape[2] - 1), columns.clamp(0, table.shape[3] - 1)
    expanded = table[:, :, rows[:, None, :, None], columns[None, :, None, :]]  # (k, u, y, x, i, j)
    expanded = expanded * (inside[0][:, None, :, None] & inside[1][None, :, None, :])
    lambdas = torch.einsum("kuyxij,bijuv->byxkv", expanded, values) + content[:, None, None]
    return torch.einsum("byxhk,byxkv->byxhv", query, lambdas)


@cache
def expected_and_allowed(case, precision, device):
    """Return the output and gradients by definition, and the errors of the plain formula."""
    tensors = inputs(*case, key_depth=16, value_depth=16, dtype=precision)
    expected = output_and_gradients(by_definition, [tensor.detach().double().requires_grad_() for tensor in tensors])
    plain = output_and_gradients(plain_formula, move(tensors, device))
    return expected, relative_errors([tensor.cpu() for tensor in plain], expected)


def move(tensors, device):
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]


def skip_unsupported(method, tensors, **options):
    if method != "auto" and method not in supported_methods(Shape.of(*tensors[:3], **options)):
        pytest.skip(f"method={method} does not compute this on {tensors[0].device.type}")


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_outputs_and_gradients_err_no_more_than_twice_the_plain_formula(method, case, precision, device):
    tensors = move(inputs(*case, key_depth=16, value_depth=16, dtype=precision), device)
    skip_unsupported(method, tensors)
    actual = output_and_gradients(lambda_map, tensors, method=method)
    assert all(tensor.dtype == precision for tensor in actual)
    expected, allowed = expected_and_allowed(case, precision, device)
    errors = relative_errors([tensor.cpu() for tensor in actual], expected)
    for name, error, limit in zip(NAMES, errors, allowed, strict=True):
        assert error <= 2 * limit + SLACK, name


@pytest.mark.parametrize("options", [{"dilation": 2}, {"stride": 2}], ids=str)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_dilation_and_stride(method, options, device):
    tensors = inputs((7, 8), (3, 5), 2, 2, key_depth=8, dtype=torch.float32, stride=options.get("stride", 1))
    expected = output_and_gradients(by_definition, [t.detach().double().requires_grad_() for t in tensors], **options)
    tensors = move(tensors, device)
    skip_unsupported(method, tensors, **options)
    actual = output_and_gradients(lambda_map, tensors, method=method, **options)
    assert max(relative_errors([tensor.cpu() for tensor in actual], expected)) < SLACK


@pytest.mark.parametrize("context", [None, (2, 30), (5, 2)], ids=str)
@pytest.mark.parametrize(("batch", "key_depth", "value_depth"), [(1, 5, 40), (5, 4, 130), (3, 128, 2)])
@pytest.mark.parametrize("method", ["triton", "scores"])
def test_any_batch_depth_and_context(method, batch, key_depth, value_depth, context, device):
    depths = {"key_depth": key_depth, "value_depth": value_depth}
    tensors = inputs((3, 5), (3, 9), 2, 2, batch=batch, dtype=torch.float32, **depths)
    if context:
        tensors[1] = torch.randn(batch, *context, 2, value_depth, requires_grad=True)
    expected = output_and_gradients(by_definition, [t.detach().double().requires_grad_() for t in tensors])
    tensors = move(tensors, device)
    skip_unsupported(method, tensors)
    actual = output_and_gradients(lambda_map, tensors, method=method)
    assert max(relative_errors([tensor.cpu() for tensor in actual], expected)) < SLACK


@needs_cuda
def test_the_last_image_of_a_batch_beyond_int32(device):
    """The lambdas of 1,024 images of 56² positions have more than 2³¹ elements; images do not depend on each other."""
    torch.manual_seed(0)
    shapes = (1024, 56, 56, 4, 16), (1024, 56, 56, 1, 16), (16, 1, 7, 7), (1024, 16, 16)
    tensors = [torch.randn(shape, dtype=torch.bfloat16, device=device) for shape in shapes]
    skip_unsupported("triton", tensors)
    grad = torch.randn(1024, 56, 56, 4, 16, dtype=torch.bfloat16, device=device)

    def run(images):
        part = [tensors[0][images], tensors[1][images], tensors[2], tensors[3][images]]
        part = [tensor.clone().requires_grad_() for tensor in part]
        y = lambda_map(*part, method="triton")
        return [y, *torch.autograd.grad(y, part, grad[images])]

    whole = run(slice(None))
    for images in (slice(0, 8), slice(1016, 1024)):
        for index, alone in enumerate(run(images)):
            if index != 3:  # the gradient of the table sums over all images
                torch.testing.assert_close(whole[index][images], alone)


@pytest.mark.parametrize("norm", ["softmax", "l2", "none"])
def test_causal_masks(norm, device):
    query, values, table, _ = inputs((3, 4), (5, 7), 2, 1, key_depth=4, dtype=torch.float32)
    torch.manual_seed(2)
    tensors = [query, torch.randn(2, 3, 4, 1, 4).requires_grad_(), values, table]
    mask = causal_mask(12).expand(2, -1, -1)
    double = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = output_and_gradients(lambda *t: masked_by_definition(*t, mask, norm), double)
    on_device = mask.to(device)
    actual = output_and_gradients(lambda *t: masked_lambda_map(*t, on_device, norm), move(tensors, device))
    assert max(relative_errors([tensor.cpu() for tensor in actual], expected)) < SLACK


@pytest.mark.parametrize("method", [name for name in METHODS if name == "triton"])
def test_the_kernels_gradients_are_deterministic(method, device):
    tensors = move(inputs((9, 11), (7, 7), 4, 1, key_depth=16, value_depth=16, dtype=torch.bfloat16), device)
    skip_unsupported(method, tensors)
    first, second = (output_and_gradients(lambda_map, tensors, method=method) for _ in range(2))
    for name, one, other in zip(NAMES, first, second, strict=True):
        assert torch.equal(one, other), name
