"""The peak of a run's memory isn't that of runs before it in the same process."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from lambdanets.callbacks.speed import peak_memory_bytes, reset_peak_memory

cpu = torch.device("cpu")
large = torch.ones(300 * 2**18)  # 300 MiB
high = peak_memory_bytes(cpu)
del large
reset_peak_memory(cpu)
print(high - peak_memory_bytes(cpu))
large = torch.ones(300 * 2**18)
print(high - peak_memory_bytes(cpu))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process's memory")
def test_the_peak_starts_anew():
    # In a process of its own, whose heap has no room for the tensor yet, and whose parent is larger than it.
    parent = b"1" * (800 * 2**20)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    del parent
    less, again = (int(line) / 2**20 for line in done.stdout.split())
    assert less > 250
    assert again < 50
