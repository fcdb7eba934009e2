"""The methods of lambda maps; tests of the kernel are skipped without a compiler."""

from importlib.util import find_spec

import pytest

from lambdanets.ops import METHODS, kernel_error

needs_compiler = pytest.mark.skipif(kernel_error() is not None, reason=f"the C kernel is missing: {kernel_error()}")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is missing, as on macOS and Windows")
# The methods that run on a CPU, in any precision.
EVERY_METHOD = [
    pytest.param(name, marks=needs_compiler) if name == "kernel" else name for name in METHODS if name != "triton"
]
