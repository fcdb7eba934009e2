"""The programs in Triton, in its interpreter, against the definition in float64."""

import sys

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import METHODS, lambda_map, triton_kernel, triton_partition
from lambdanets.ops.cost import Shape, predict_costs
from lambdanets.ops.triton_kernel import list_launches, triton_lambdas
from tests.methods import needs_programs
from tests.ops.test_lambda_map import CASES, inputs, output_and_gradients, relative_errors
from tests.reference.lambda_map import lambda_map as by_definition

pytestmark = needs_programs
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch):
    """Without a GPU, the interpreter; with one, the GPU: the operator's inputs are on the CPU either way."""
    if torch.cuda.is_available():
        monkeypatch.setattr("tests.ops.test_triton_kernel.triton_lambdas", run_on_gpu)


def run_on_gpu(*tensors):
    return triton_kernel.triton_lambdas(*(tensor.cuda() for tensor in tensors)).cpu()


def double(tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("depths", [(3, 4), (16, 8)], ids=str)
@pytest.mark.parametrize("case", [*CASES, ((3, 20), (5, 23), 4, 2), ((2, 17), (3, 33), 2, 1)], ids=str)
def test_float32_is_within_1e6_of_the_definition(case, depths):
    single = inputs(*case, key_depth=depths[0], value_depth=depths[1], dtype=torch.float32)
    actual = output_and_gradients(triton_lambdas, single)
    assert max(relative_errors(actual, output_and_gradients(by_definition, double(single)))) < 1e-6


@pytest.fixture
def bfloat16_products(monkeypatch):
    """Let the interpreter multiply numbers in bfloat16; Triton's own multiplies their bits as integers."""
    from triton.runtime import interpreter

    def widen(handle):
        is_bfloat16 = str(handle.dtype.scalar) == "bf16"
        return (handle.data.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else handle.data

    def create_dot(self, a, b, total, input_precision, max_num_imprecise_acc):
        product = np.matmul(widen(a), widen(b), dtype=total.data.dtype)
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("size", "scope"), [((5, 6), (9, 11)), ((5, 6), (3, 3)), ((3, 20), (3, 23))], ids=str)
def test_half_precision_errs_little_more_than_the_plain_einsum(dtype, size, scope):
    half = inputs(size, scope, 2, 1, key_depth=8, dtype=dtype)
    expected = output_and_gradients(by_definition, double(half))
    plain = output_and_gradients(METHODS["lambdas"], half)  # matrix products in the tensors' own precision
    # Not by the operator, which converts half precision to single on a CPU.
    tensors = [tensor.detach().to(DEVICE) for tensor in half]
    y = triton_kernel.forward(*tensors, None)
    torch.manual_seed(1)
    grad = torch.randn(y.shape, dtype=torch.float64).to(dtype).to(DEVICE)
    actual = [tensor.cpu() for tensor in (y, *triton_kernel.backward(grad, *tensors, None))]
    # The interpreter cuts off what bfloat16 has no bits for, where a GPU rounds: twice the error of each result.
    factor = 4 if dtype == torch.bfloat16 and DEVICE == "cpu" else 2
    for error, allowed in zip(relative_errors(actual, expected), relative_errors(plain, expected), strict=True):
        assert error <= factor * allowed


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("key_depth", "value_depth"), [(1, 1), (5, 40), (32, 3), (4, 130), (128, 2)])
def test_any_batch_and_depth(batch, key_depth, value_depth):
    single = inputs(
        (3, 5), (3, 5), 2, 1, batch=batch, key_depth=key_depth, value_depth=value_depth, dtype=torch.float32
    )
    actual = output_and_gradients(triton_lambdas, single)
    assert max(relative_errors(actual, output_and_gradients(by_definition, double(single)))) < 1e-6


@pytest.mark.parametrize("context", [(5, 2), (2, 30), (1, 1), (7, 4)], ids=str)
@pytest.mark.parametrize("scope", [(3, 5), (13, 61)], ids=str)
def test_a_context_of_another_size(context, scope):
    single = inputs((3, 4), scope, 2, 2, dtype=torch.float32)
    single[1] = torch.randn(2, *context, 2, 4, requires_grad=True)
    actual = output_and_gradients(triton_lambdas, single)
    assert max(relative_errors(actual, output_and_gradients(by_definition, double(single)))) < 1e-6


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilation(dilation, monkeypatch):
    monkeypatch.setattr(sys.modules["lambdanets.ops.lambda_map"], "choose_method", lambda shape, method: method)
    monkeypatch.setitem(METHODS, "triton", triton_lambdas)
    single = inputs((5, 9), (5, 3), 2, 2, dtype=torch.float32)
    actual = output_and_gradients(lambda_map, single, method="triton", dilation=dilation)
    expected = output_and_gradients(by_definition, double(single), dilation=dilation)
    assert max(relative_errors(actual, expected)) < 1e-6


@pytest.mark.parametrize("processors", [1, 5])
def test_parts_and_chunks_only_change_the_order_of_sums(processors, monkeypatch):
    monkeypatch.setattr(triton_partition, "CHUNK", 1)
    monkeypatch.setattr(triton_kernel, "count_processors", lambda device: processors)
    single = inputs((4, 9), (5, 3), 2, 2, batch=5, value_depth=64, dtype=torch.float32)
    actual = output_and_gradients(triton_lambdas, single)
    assert max(relative_errors(actual, output_and_gradients(by_definition, double(single)))) < 1e-6


def test_the_same_inputs_give_the_same_bits():
    single = inputs((6, 7), (5, 5), 2, 1, dtype=torch.float32)
    first, second = (output_and_gradients(triton_lambdas, single) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("scope", [(7, 9), (3, 3)], ids=str)
def test_the_operator_passes_pytorchs_checks(scope):
    tensors = inputs((4, 5), scope, 2, 2, dtype=torch.float32)
    tensors = [tensor.detach().to(DEVICE).requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.lambdanets.triton_lambdas.default, (*tensors, True))


@pytest.mark.parametrize("table_dtype", [torch.float32, torch.float16], ids=str)
def test_it_compiles_into_a_full_graph(table_dtype):
    single = inputs((4, 5), (3, 3), 2, 2, dtype=torch.float32)
    single[2] = single[2].detach().to(table_dtype).requires_grad_()
    compiled = torch.compile(triton_lambdas, fullgraph=True, backend="aot_eager")
    expected = output_and_gradients(triton_lambdas, single)
    actual = output_and_gradients(compiled, single)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_strides_in_memory_and_empty_batches_make_no_difference():
    single = inputs((4, 5), (3, 3), 2, 2, dtype=torch.float32)
    expected = output_and_gradients(triton_lambdas, single)
    turned = [tensor.detach().transpose(1, -1).contiguous().transpose(1, -1).requires_grad_() for tensor in single]
    actual = output_and_gradients(triton_lambdas, turned)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    none = [tensor.detach()[:0] if index != 2 else tensor.detach() for index, tensor in enumerate(single)]
    assert triton_lambdas(*none).shape == (0, 4, 5, 2, 4)


def test_float64_and_machines_without_triton_get_the_same_result(monkeypatch):
    exact = inputs((4, 5), (3, 3), 2, 2)
    expected = output_and_gradients(by_definition, exact)
    assert max(relative_errors(output_and_gradients(triton_lambdas, exact), expected)) < 1e-12
    monkeypatch.setattr(triton_kernel, "is_available", lambda query: False)
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    assert max(relative_errors(output_and_gradients(triton_lambdas, single), expected)) < 1e-5


def test_what_no_query_of_a_tile_sees_is_never_read():
    single = inputs((4, 20), (3, 3), 2, 1, batch=3, key_depth=16, dtype=torch.float32)  # 8 queries a tile
    with torch.no_grad():
        single[1][1] = float("nan")
        single[1][2, 2, 19] = float("nan")
    y = triton_lambdas(*single)
    assert y[0].isfinite().all()
    assert y[2, 0].isfinite().all()
    assert y[2, :, :16].isfinite().all()
    assert y[2, 1:, 18:].isnan().all()


def test_the_launches_of_resnet50_hold_no_expanded_embeddings():
    """The largest tensor is the chunk of the lambdas' gradient, even for the largest of batches."""
    shapes = [(512, 56, 56, 4, 16), (512, 56, 56, 1, 16), (16, 1, 111, 111), (512, 16, 16)]
    tensors = [torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in shapes]
    launches = list_launches(*tensors, training=True, processors=132)
    largest = max(t.numel() for launch in launches for t in launch.arguments if isinstance(t, torch.Tensor))
    assert largest <= max(triton_partition.CHUNK, *(tensor.numel() for tensor in tensors))
    assert max(side for launch in launches for side in launch.grid[1:]) < 2**16  # CUDA's limit


def test_without_a_gpu_it_is_no_choice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    triton_kernel.try_triton.cache_clear()
    shape = Shape(8, 14, 14, (14, 14), 4, 16, 16, 1, (7, 7), dtype=torch.bfloat16)
    assert "triton" not in predict_costs.__wrapped__(shape)
    with pytest.raises(UserError, match="method=triton needs .* there is no GPU"):
        LambdaLayer(8, scope=3, method="triton")(torch.randn(1, 8, 4, 4))
    triton_kernel.try_triton.cache_clear()
