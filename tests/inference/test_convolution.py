"""Convolutions in C against PyTorch's in float64."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lambdanets.errors import UserError
from lambdanets.inference import convolution
from lambdanets.inference.convolution import PackedConv, pack_panels, share_rows, unpack_panels
from lambdanets.inference.fused import FusedConv
from tests.methods import needs_compiler


def reference(conv, x, other=None, relu=False):
    with torch.no_grad():
        bias = None if conv.bias is None else conv.bias.double()
        y = nn.functional.conv2d(x.double(), conv.weight.double(), bias, conv.stride, conv.padding, conv.dilation)
        y = y if other is None else y + other
        return (y.relu() if relu else y).float()


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (9, 14), (20, 25)], ids=str)
@pytest.mark.parametrize(("channels", "outputs"), [(32, 64), (48, 112), (320, 16)])
@pytest.mark.parametrize(
    ("side", "bias", "relu"), [(1, True, False), (1, False, True), (3, True, True), (3, False, False)]
)
def test_it_is_the_convolution(side, bias, relu, channels, outputs, size, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    conv = nn.Conv2d(channels, outputs, side, padding=side // 2, bias=bias)
    packed = PackedConv(conv, relu=relu)
    for batch in (1, 3):
        x = torch.randn(batch, channels, *size)
        torch.testing.assert_close(packed(x), reference(conv, x, relu=relu), rtol=1e-4, atol=1e-5)
        if side == 1:
            other = torch.randn(batch, outputs, *size).contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(packed(x, other), reference(conv, x, other, relu), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("side", [1, 3])
def test_an_empty_batch_gives_an_empty_map(side):
    conv = nn.Conv2d(64, 32, side, padding=side // 2)
    x = torch.randn(0, 64, 14, 9)
    assert PackedConv(conv, relu=True)(x).shape == conv(x).shape


@needs_compiler
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 24, 1),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, padding=1, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_other_convolutions_are_not_suitable(conv):
    assert not PackedConv.is_suitable(conv)


def test_one_dnn_repeats_the_order_of_weights_for_each_shape():
    conv = nn.Conv2d(16, 24, 1, stride=2)
    fused = FusedConv(conv, nn.ReLU)
    with torch.no_grad():
        for batch, size in ((1, 8), (4, 8), (1, 31), (1, 8)):
            x = torch.randn(batch, 16, size, size)
            torch.testing.assert_close(fused(x), reference(conv, x, relu=True), rtol=1e-4, atol=1e-5)


def test_threads_get_equally_many_rows():
    assert share_rows(100, 200, 2) == 100
    assert share_rows(400, 256, 2) == 200
    assert share_rows(1000, 200, 4) == 125


def test_no_convolution_is_suitable_without_a_compiler(monkeypatch):
    monkeypatch.setattr(convolution, "load_library", lambda: None)
    assert not PackedConv.is_suitable(nn.Conv2d(16, 16, 1))


@needs_compiler
@pytest.mark.parametrize(("side", "channels", "outputs"), [(1, 32, 96), (3, 16, 80)])
def test_a_stored_convolution_is_laid_out_for_the_cpu_that_loads_it(side, channels, outputs, monkeypatch):
    conv = nn.Conv2d(channels, outputs, side, padding=side // 2)
    packed, x = PackedConv(conv, relu=False), torch.randn(2, channels, 5, 6)
    expected = packed(x)
    for lanes in (2, 4, 8, 16):
        stored = copy.deepcopy(packed)
        stored.weight = pack_panels(unpack_panels(packed.weight, channels, packed.lanes), lanes)
        stored.lanes = lanes
        loaded = pickle.loads(pickle.dumps(stored))
        assert loaded.lanes == packed.lanes
        assert torch.equal(loaded(x), expected)
    content = pickle.dumps(packed)
    for library, reason in ((None, "this machine has no C compiler"), (Library(7), "this CPU's vectors have 7 lanes")):
        monkeypatch.setattr("lambdanets.inference.convolution.load_library", lambda library=library: library)
        with pytest.raises(UserError, match=f"{reason}: call optimize_for_inference on this machine"):
            pickle.loads(content)


class Library:
    """The compiled source on a CPU with that many lanes."""

    def __init__(self, lanes):
        self.lanes = lambda: lanes
