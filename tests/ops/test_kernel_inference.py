"""The C kernel's forward pass: strided inputs, the epilogue, other vector sizes and another processor."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lambdanets.ops import kernel
from lambdanets.ops.lambdas import lambdas_first
from tests.methods import needs_compiler

DRIVER = Path(__file__).with_name("kernel_driver.c")
# Maps, contexts, scopes, heads, depths of keys, values and intra; some views fit one vector, some need several bands.
SHAPES = [
    ((7, 7), (7, 7), (13, 13), 4, 16, 128, 1),
    ((5, 20), (5, 20), (3, 23), 3, 16, 37, 2),
    ((9, 33), (9, 33), (17, 65), 6, 5, 64, 1),
    ((40, 40), (40, 40), (79, 79), 5, 4, 16, 1),
    ((6, 12), (2, 3), (3, 3), 1, 3, 16, 2),
    ((1, 50), (1, 50), (1, 7), 2, 8, 16, 1),
]


def draw(shape, dtype=torch.float32, batch=2):
    """Draw a projection's channels, of which query and values are slices, the table and the content lambda."""
    (height, width), (rows, columns), scope, heads, key_depth, value_depth, intra_depth = shape
    torch.manual_seed(0)
    keys = heads * key_depth
    query = torch.randn(batch, height, width, keys + 7, dtype=dtype)[..., 3 : 3 + keys]
    values = torch.randn(batch, rows, columns, intra_depth * value_depth + 5, dtype=dtype)[..., 5:]
    query, values = query.unflatten(3, (heads, key_depth)), values.unflatten(3, (intra_depth, value_depth))
    table = torch.randn(key_depth, intra_depth, *scope, dtype=dtype)
    return query, values, table, torch.randn(batch, key_depth, value_depth, dtype=dtype)


def relative_error(actual, expected):
    return float((actual.double() - expected).abs().max() / expected.abs().max())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slices_of_a_projection(threads, shape, count):
    tensors = draw(shape)
    threads(count)
    y = kernel.infer(*tensors)
    assert y.is_contiguous()
    assert relative_error(y, lambdas_first(*(tensor.double() for tensor in tensors))) < 2e-6


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_a_folded_batch_norm_and_relu_follow(shape):
    tensors = draw(shape)
    scale, shift = torch.randn(2, tensors[0].shape[3] * tensors[3].shape[2])
    y = lambdas_first(*(tensor.double() for tensor in tensors))
    affine = y * scale.view(y.shape[3:]) + shift.view(y.shape[3:])
    assert relative_error(kernel.infer(*tensors, scale, shift, relu=True), affine.relu()) < 2e-6
    assert relative_error(kernel.infer(*tensors, scale, shift), affine) < 2e-6
    assert relative_error(kernel.infer(*tensors, relu=True), y.relu()) < 2e-6


@needs_compiler
def test_the_epilogue_without_a_compiler(monkeypatch):
    monkeypatch.setattr(kernel, "kernel_error", lambda: "there is no C compiler")
    tensors = draw(SHAPES[1], torch.float64)
    scale, shift = torch.randn(2, 3 * 37, dtype=torch.float64)
    y = lambdas_first(*tensors)
    expected = (y * scale.view(3, 37) + shift.view(3, 37)).relu()
    assert relative_error(kernel.infer(*tensors, scale, shift, relu=True), expected) < 1e-12


@needs_compiler
def test_an_empty_batch_gives_an_empty_map():
    y = kernel.infer(*draw(SHAPES[1], batch=0), torch.randn(3 * 37), torch.randn(3 * 37), relu=True)
    assert y.shape == (0, 5, 20, 3, 37)


@needs_compiler
def test_half_precision_is_summed_in_single():
    tensors = [tensor.bfloat16() for tensor in draw(SHAPES[0])]
    y = kernel.infer(*tensors)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, lambdas_first(*(tensor.double() for tensor in tensors))) < 2**-8


@needs_compiler
def test_nan_is_not_hidden_by_the_relu():
    query, *rest = draw(SHAPES[0])
    query[0, 2, 3, 1, 0] = torch.nan
    y = kernel.infer(query, *rest, relu=True)
    assert y[0, 2, 3, 1].isnan().all()
    assert y.isnan().sum() == y.shape[4]


@needs_compiler
def test_without_gradients_the_operator_is_not_called():
    tensors = draw(SHAPES[0])
    with torch.profiler.profile() as profile, torch.no_grad():
        kernel.scores_kernel(*tensors)
    assert not any("scores_kernel" in event.key for event in profile.key_averages())
    tensors[0].requires_grad_()
    with torch.profiler.profile() as profile:
        kernel.scores_kernel(*tensors).sum().backward()
    assert any("scores_kernel" in event.key for event in profile.key_averages())


@pytest.mark.parametrize(
    ("compiler", "flags", "runner"),
    [
        ("gcc", ["-march=native"], []),
        ("gcc", ["-march=native", "-mno-avx512f"], []),
        ("aarch64-linux-gnu-gcc", ["-static"], ["qemu-aarch64"]),
    ],
    ids=["this processor", "32-byte vectors", "ARM"],
)
@pytest.mark.parametrize("real", ["float", "double"])
def test_a_plain_loop_in_c_agrees(tmp_path, compiler, flags, runner, real):
    missing = [program for program in (compiler, *runner) if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{missing[0]} isn't installed")
    program = tmp_path / "driver"
    command = [compiler, "-O2", "-fopenmp", f"-DREAL={real}", f'-DSOURCE="{kernel.SOURCE}"', *flags]
    command += [str(DRIVER), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "-mno-avx512f" in flags and "unrecognized" in built.stderr:
        pytest.skip("this processor has no AVX")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert float(done.stdout) < (1e-5 if real == "float" else 1e-13)
