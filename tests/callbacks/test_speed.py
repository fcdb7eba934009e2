"""The peak of a run's memory isn't that of runs before it in the same process."""

import sys

import pytest
import torch

from lambdanets.callbacks.speed import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of a process's memory")
def test_the_peak_starts_anew():
    reset_peak_memory(CPU)
    large = torch.ones(300 * 2**18)  # 300 MiB
    high = peak_memory(CPU)
    del large
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < high - 250 * 2**20
    large = torch.ones(300 * 2**18)
    assert peak_memory(CPU) > high - 50 * 2**20
    del large
