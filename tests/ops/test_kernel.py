"""Properties of the C kernel alone; its results are checked along with those of the other methods."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import kernel, lambda_map
from tests.methods import needs_compiler
from tests.ops.test_lambda_map import inputs, output_and_gradients, relative_errors
from tests.reference.lambda_map import lambda_map as by_definition


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("key_depth", "value_depth"), [(3, 4), (16, 37), (8, 64)])
def test_any_depth_and_images_split_over_threads(threads, dtype, batch, key_depth, value_depth):
    threads(2)
    tensors = inputs((5, 20), (3, 23), 3, 2, batch=batch, key_depth=key_depth, value_depth=value_depth, dtype=dtype)
    actual = output_and_gradients(lambda_map, tensors, method="kernel")
    expected = output_and_gradients(by_definition, [tensor.detach().double().requires_grad_() for tensor in tensors])
    assert max(relative_errors(actual, expected)) < (1e-5 if dtype == torch.float32 else 1e-12)


@needs_compiler
def test_the_same_threads_give_the_same_bits(threads):
    threads(2)
    tensors = inputs((6, 7), (5, 5), 2, 1, batch=2, dtype=torch.float32)
    first, second = (output_and_gradients(lambda_map, tensors, method="kernel") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_compiler
@pytest.mark.parametrize("scope", [(3, 3), (9, 9)])
def test_a_context_much_smaller_than_the_map(scope):
    query, _, table, content = inputs((6, 12), scope, 2, 1)
    values = torch.randn(2, 2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    tensors = [query, values, table, content]
    actual = output_and_gradients(lambda_map, tensors, method="kernel")
    assert max(relative_errors(actual, output_and_gradients(lambda_map, tensors, method="lambdas"))) < 1e-12


def test_without_a_compiler_another_method_is_chosen(tmp_path):
    program = """
import logging, torch
logging.basicConfig(level=logging.INFO)
from lambdanets.mixers import LambdaLayer
torch.manual_seed(0)
y = LambdaLayer(8, scope=3)(torch.randn(2, 8, 5, 6))
print(float(y.sum()))
"""
    environment = {**os.environ, "CC": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "run without their C kernel" in done.stderr
    torch.manual_seed(0)
    y = LambdaLayer(8, scope=3)(torch.randn(2, 8, 5, 6))
    assert float(done.stdout) == pytest.approx(y.sum().item(), abs=1e-4)


def test_the_operator_of_an_exported_graph_needs_no_compiler(monkeypatch):
    monkeypatch.setattr(kernel, "kernel_error", lambda: "there is no C compiler")
    tensors = inputs((5, 4), (3, 5), 2, 1)
    actual = output_and_gradients(kernel.scores_kernel, tensors)
    assert max(relative_errors(actual, output_and_gradients(by_definition, tensors))) < 1e-12


def test_the_kernel_by_name_without_a_compiler_is_a_mistake(monkeypatch, caplog):
    monkeypatch.setattr(kernel, "kernel_error", lambda: "there is no C compiler")
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(UserError, match=r"needs .* there is no C compiler"),
    ):
        lambda_map(*inputs((4, 4), (3, 3), 2, 1), method="kernel")
