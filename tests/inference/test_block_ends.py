"""Gates and pooling against PyTorch's operators."""

import pytest
import torch
from torch import nn

from lambdanets.inference import block_ends

LIBRARIES = [block_ends.load_library(), None]


@pytest.mark.parametrize("library", LIBRARIES, ids=["compiled", "PyTorch"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scaled_sums(dtype, memory_format, relu, library, monkeypatch):
    monkeypatch.setattr(block_ends, "load_library", lambda: library)
    y, other = (torch.randn(2, 20, 5, 7).contiguous(memory_format=memory_format) for _ in range(2))
    factors = torch.rand(2, 20, 1, 1).to(dtype)  # autocast's are in half precision
    expected = y * factors.float() + other
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(block_ends.scale_and_add(y, factors, other, relu=relu), expected)


@pytest.mark.parametrize("library", LIBRARIES, ids=["compiled", "PyTorch"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (7, 3)], ids=str)
def test_pooling(size, relu, library, monkeypatch):
    monkeypatch.setattr(block_ends, "load_library", lambda: library)
    layer = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    x = torch.randn(2, *size, 24)
    expected = layer(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(block_ends.pool(layer, x, relu=relu), expected.relu() if relu else expected)


def test_other_poolings_stay():
    x = torch.randn(2, 6, 6, 8)
    for layer in (nn.Identity(), nn.AvgPool2d(2, 2), nn.AvgPool2d(3, 2, padding=1)):
        torch.testing.assert_close(block_ends.pool(layer, x, relu=False), layer(x.permute(0, 3, 1, 2)))
