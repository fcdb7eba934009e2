"""Every exact method against the definition."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.ops import METHODS, lambda_map
from tests.methods import EVERY_METHOD, needs_compiler
from tests.reference.lambda_map import lambda_map as by_definition

METHOD_NAMES = [*EVERY_METHOD, "auto"]
# Map, scope, heads, u: square, wide, narrow, one position, a line; scopes that are global, local, beyond the map.
CASES = [
    ((4, 5), (7, 9), 2, 1),
    ((4, 5), (3, 3), 2, 2),
    ((5, 3), (5, 5), 1, 3),
    ((9, 10), (3, 5), 3, 1),
    ((1, 1), (1, 1), 2, 1),
    ((1, 1), (7, 7), 1, 2),
    ((1, 9), (1, 17), 2, 2),
    ((1, 9), (1, 3), 1, 1),
    ((3, 2), (9, 9), 2, 2),
    ((12, 4), (7, 1), 1, 1),
]


def inputs(size, scope, heads, intra_depth, *, batch=2, key_depth=3, value_depth=4, dtype=torch.float64, stride=1):
    torch.manual_seed(0)
    height, width = size
    small = -(-height // stride), -(-width // stride)
    return [
        torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in (
            (batch, *small, heads, key_depth),
            (batch, height, width, intra_depth, value_depth),
            (key_depth, intra_depth, *scope),
            (batch, key_depth, value_depth),
        )
    ]


def output_and_gradients(function, tensors, **options):
    y = function(*tensors, **options)
    torch.manual_seed(1)
    grad = torch.randn(y.shape, dtype=torch.float64).to(y.device, y.dtype)
    grads = torch.autograd.grad(y, tensors, grad, allow_unused=True, materialize_grads=True)
    return [y.detach(), *grads]


def relative_errors(actual, expected):
    """The norm of each difference over the expected norm; if that is 0, the norm alone."""
    return [
        ((a.double() - b.double()).norm() / (b.double().norm() or 1)).item()
        for a, b in zip(actual, expected, strict=True)
    ]


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_are_the_definition(method, case):
    tensors = inputs(*case)
    actual = output_and_gradients(lambda_map, tensors, method=method)
    expected = output_and_gradients(by_definition, tensors)
    assert max(relative_errors(actual, expected)) < 1e-12


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize(("size", "scope"), [((7, 6), (13, 11)), ((11, 13), (5, 5))], ids=str)
def test_single_precision_is_within_1e5(method, size, scope):
    single = inputs(size, scope, 4, 2, key_depth=16, value_depth=8, dtype=torch.float32)
    double = [tensor.detach().double().requires_grad_() for tensor in single]
    actual = output_and_gradients(lambda_map, single, method=method)
    assert all(tensor.dtype == torch.float32 for tensor in actual)
    assert max(relative_errors(actual, output_and_gradients(by_definition, double))) < 1e-5


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("scope", [(9, 11), (3, 3)], ids=str)
def test_bfloat16_errs_no_more_than_twice_the_plain_einsum(method, scope):
    size = 5, 6
    half = inputs(size, scope, 2, 1, key_depth=8, dtype=torch.bfloat16)
    double = [tensor.detach().double().requires_grad_() for tensor in half]
    expected = output_and_gradients(by_definition, double)
    plain = output_and_gradients(METHODS["lambdas"], half)  # matrix products in the tensors' own precision
    actual = output_and_gradients(lambda_map, half, method=method)
    assert all(tensor.dtype == torch.bfloat16 for tensor in actual)
    for error, allowed in zip(relative_errors(actual, expected), relative_errors(plain, expected), strict=True):
        assert error <= 2 * allowed


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("scope", [(3, 5), (3, 3)], ids=str)
def test_gradcheck(method, scope):
    tensors = inputs((2, 3), scope, 2, 2, key_depth=2, value_depth=2)
    assert torch.autograd.gradcheck(lambda *args: lambda_map(*args, method=method), tensors)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize(("size", "scope"), [((7, 8), (3, 3)), ((5, 9), (5, 3))], ids=str)
def test_dilation(method, size, scope):
    tensors = inputs(size, scope, 2, 2)
    actual = output_and_gradients(lambda_map, tensors, method=method, dilation=2)
    assert max(relative_errors(actual, output_and_gradients(by_definition, tensors, dilation=2))) < 1e-12


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (9, 3)], ids=str)
def test_stride(size, dilation):
    tensors = inputs(size, (3, 5), 2, 2, stride=2)
    options = {"stride": 2, "dilation": dilation}
    actual = output_and_gradients(lambda_map, tensors, **options)
    assert max(relative_errors(actual, output_and_gradients(by_definition, tensors, **options))) < 1e-12


@pytest.mark.parametrize("method", ["scores", "lambdas", "auto"])
@pytest.mark.parametrize("context", [(5, 2), (2, 6), (1, 1)], ids=str)
def test_a_context_of_another_size(method, context):
    tensors = inputs((3, 4), (3, 5), 2, 2)
    tensors[1] = torch.randn(2, *context, 2, 4, dtype=torch.float64, requires_grad=True)
    actual = output_and_gradients(lambda_map, tensors, method=method)
    assert max(relative_errors(actual, output_and_gradients(by_definition, tensors))) < 1e-12


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_outputs_move_with_the_input(method):
    query, values, table, content = inputs((9, 11), (17, 21), 2, 1)
    content = torch.zeros_like(content)
    inside = torch.zeros_like(values)
    inside[:, 2:4, 2:5] = values[:, 2:4, 2:5].detach()
    before = lambda_map(query, inside, table, content, method=method)
    after = lambda_map(query.roll((3, 4), (1, 2)), inside.roll((3, 4), (1, 2)), table, content, method=method)
    assert before[:, :-3, :-4].abs().min() > 0
    torch.testing.assert_close(after[:, 3:, 4:], before[:, :-3, :-4], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_strides_in_memory_and_empty_batches_make_no_difference(method):
    tensors = inputs((4, 5), (3, 3), 2, 2)
    expected = output_and_gradients(lambda_map, tensors, method=method)
    turned = [
        tensor.detach().transpose(1, -1).contiguous().transpose(1, -1).requires_grad_()
        if tensor.ndim == 5
        else tensor.detach().mT.contiguous().mT.requires_grad_()
        for tensor in tensors
    ]
    assert max(relative_errors(output_and_gradients(lambda_map, turned, method=method), expected)) < 1e-14
    none = [tensor.detach()[:0] if index != 2 else tensor.detach() for index, tensor in enumerate(tensors)]
    y, *grads = output_and_gradients(lambda_map, [tensor.requires_grad_() for tensor in none], method=method)
    assert y.shape == (0, 4, 5, 2, 4)
    assert grads[2].count_nonzero() == 0


@pytest.mark.parametrize("method", ["scores", "tiles", "row_fft", "fourier"])
def test_chunks_make_no_difference(method, monkeypatch):
    from lambdanets.ops import fourier, row_fft, scores, tiles

    tensors = inputs((9, 10), (7, 5), 2, 2, batch=5)
    expected = output_and_gradients(lambda_map, tensors, method=method)
    for module in (scores, tiles, fourier):
        monkeypatch.setattr(module, "CHUNK", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(row_fft, "CHUNK", 1)
    assert max(relative_errors(output_and_gradients(lambda_map, tensors, method=method), expected)) < 1e-13


OPERATORS = ["scores_first", "tiled_scores", "row_fft", "fourier"]


@pytest.mark.parametrize("name", [*OPERATORS, pytest.param("scores_kernel", marks=needs_compiler)])
@pytest.mark.parametrize("scope", [(7, 9), (3, 3)], ids=str)
def test_operators_pass_pytorchs_checks(name, scope):
    tensors = inputs((4, 5), scope, 2, 2)
    torch.library.opcheck(getattr(torch.ops.lambdanets, name).default, (*tensors, True))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "winograd"}, "method=winograd is not known"), ({"method": "tiles", "stride": 2}, "can't compute")],
)
def test_mistakes(options, words):
    tensors = inputs((4, 4), (3, 3), 2, 1, stride=options.get("stride", 1))
    with pytest.raises(UserError, match=words):
        lambda_map(*tensors, **options)


@pytest.mark.parametrize("method", ["auto", *EVERY_METHOD])
def test_data_types_that_differ_are_refused(method):
    query, values, table, content = inputs((4, 4), (3, 3), 2, 1)
    with pytest.raises(UserError, match=r"are torch.float64, .*float64, torch.float32 and .*: convert them to one"):
        lambda_map(query, values, table.float(), content, method=method)
