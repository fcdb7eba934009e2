"""The methods of lambda maps that a test can try here."""

import pytest

from lambdanets.ops import METHODS, missing_kernel

needs_compiler = pytest.mark.skipif(missing_kernel() is not None, reason=f"the C kernel is missing: {missing_kernel()}")
EVERY_METHOD = [pytest.param(name, marks=needs_compiler) if name == "kernel" else name for name in METHODS]
