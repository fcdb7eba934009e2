"""3×3 convolutions in C by Winograd's algorithm, which saves more than half of the multiply-adds; see winograd.c."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lambdanets.ops.compiler import CompilerError, compile_library

SOURCE = Path(__file__).with_name("winograd.c")
# G of the paper's F(2×2, 3×3): transforms the three taps of an axis to four.
TAPS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
# Vectors of output channels that one block of the product holds in registers.
PANEL = 4
# Tiles that a thread computes at a time: many, so that weights are read rarely, but no more than fit its cache.
TILES = 24


class Sizes(ctypes.Structure):
    """The struct of the same name in the source."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("threads", "batch", "height", "width", "channels", "outputs", "tiles", "relu")
    ]


@cache
def load_library() -> ctypes.CDLL | None:
    """Compile the source; None without a compiler."""
    try:
        return compile_library(SOURCE)
    except CompilerError:
        return None


class WinogradConv(nn.Module):
    """A 3×3 convolution with padding 1, and optionally a ReLU: (B, C, H, W) → (B, out, H, W), channels last.

    Args:
        conv: see `is_suitable`.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        library = load_library()
        assert library is not None
        self.channels, self.outputs = conv.in_channels, conv.out_channels
        weight = torch.einsum("ai,bj,ocij->abco", TAPS, TAPS, conv.weight.detach().double()).flatten(0, 1).float()
        panels = weight.split(PANEL * int(library.lanes()), 2)
        self.register_buffer("weight", torch.cat([panel.flatten(1) for panel in panels], 1).contiguous())
        bias = weight.new_zeros(self.outputs) if conv.bias is None else conv.bias.detach().clone()
        self.register_buffer("bias", bias)

    @staticmethod
    def is_suitable(conv: nn.Conv2d) -> bool:
        """Return whether a compiler exists, and a convolution is 3×3, without a stride, of whole vectors."""
        library = load_library()
        plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
        return (
            library is not None
            and plain == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
            and conv.in_channels % int(library.lanes()) == 0
            and conv.out_channels % int(library.lanes()) == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        library = load_library()
        assert library is not None
        x = x.permute(0, 2, 3, 1).contiguous()
        batch, height, width, _ = x.shape
        threads = torch.get_num_threads()
        count = batch * -(-height // 2) * -(-width // 2)
        tiles = max(1, min(TILES, -(-count // threads)))
        y = x.new_empty(batch, height, width, self.outputs)
        scratch = x.new_empty(threads * 16 * tiles * (self.channels + self.outputs))
        sizes = Sizes(threads, batch, height, width, self.channels, self.outputs, tiles, self.relu)
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, self.weight, self.bias, y, scratch))
        library.convolve(ctypes.byref(sizes), *pointers)
        return y.permute(0, 3, 1, 2)
