"""The methods of lambda maps; tests of the kernel are skipped without a compiler."""

import pytest

from lambdanets.ops import METHODS, kernel_error

needs_compiler = pytest.mark.skipif(kernel_error() is not None, reason=f"the C kernel is missing: {kernel_error()}")
EVERY_METHOD = [pytest.param(name, marks=needs_compiler) if name == "kernel" else name for name in METHODS]
