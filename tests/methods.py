"""The methods of lambda maps; tests of the kernel are skipped without a compiler."""

from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from packaging.version import Version

from lambdanets.ops import METHODS, kernel_error

needs_compiler = pytest.mark.skipif(kernel_error() is not None, reason=f"the C kernel is missing: {kernel_error()}")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is missing, as on macOS and Windows")
# Without a GPU, the programs in Triton run in its interpreter.
needs_programs = pytest.mark.skipif(
    find_spec("triton") is None
    or (
        not torch.cuda.is_available()
        and Version(version("triton")) < Version("3.7")
        and Version(np.__version__) >= Version("2.4")
    ),
    reason="Triton is missing, or its interpreter, before 3.7, does not work with NumPy 2.4",
)
# The methods that run on a CPU, in any precision.
EVERY_METHOD = [
    pytest.param(name, marks=needs_compiler) if name == "kernel" else name for name in METHODS if name != "triton"
]
