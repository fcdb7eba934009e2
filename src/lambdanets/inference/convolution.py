"""1×1 and 3×3 convolutions in C, with the bias, sum and ReLU behind them; see convolution.c.

Theirs is the order of weights that the products read, and 3×3 convolutions save more than half of the multiply-adds by
Winograd's algorithm.
"""

import ctypes
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers.interface import lay_out
from lambdanets.ops.compiler import try_compile

SOURCE = Path(__file__).with_name("convolution.c")
# Winograd's G, which transforms the three taps of an axis to four.
TAPS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
ENTRIES = len(TAPS) ** 2
# Vectors of output channels that one block of a product holds in registers.
PANEL = 4
# 2×2 tiles that a thread computes at a time: many, so that weights are read rarely, but no more than fit its cache.
TILES = 24
# Elements of rows that a thread computes at a time, for the same reasons.
ROW_ELEMENTS = 2**17


class WinogradSizes(ctypes.Structure):
    """The struct `Sizes` of the source."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("threads", "batch", "height", "width", "channels", "outputs", "tiles", "relu")
    ]


class RowSizes(ctypes.Structure):
    """The struct `Rows` of the source."""

    _fields_ = [(name, ctypes.c_int64) for name in ("threads", "rows", "channels", "outputs", "chunk", "relu")]


@cache
def load_library() -> ctypes.CDLL | None:
    """Compile the source, once; None without a compiler."""
    return try_compile(SOURCE)


def pack_panels(weight: Tensor, lanes: int) -> Tensor:
    """Lay a matrix (·, C, outputs) out by panels of outputs: (·, C · outputs)."""
    return torch.cat([panel.flatten(1) for panel in weight.split(PANEL * lanes, 2)], 1).contiguous()


def unpack_panels(packed: Tensor, channels: int, lanes: int) -> Tensor:
    """Return the matrix that `pack_panels` laid out for so many lanes: (·, C · outputs) → (·, C, outputs)."""
    panels = packed.split(channels * PANEL * lanes, 1)
    return torch.cat([panel.unflatten(1, (channels, -1)) for panel in panels], 2)


class PackedConv(nn.Module):
    """A 1×1 or 3×3 convolution without a stride: (B, C, H, W) → (B, out, H, W), channels last.

    A stored one can be loaded on a CPU with vectors of another width, for which its weights are laid out anew.

    Args:
        conv: see `is_suitable`.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        library = load_library()
        assert library is not None
        self.channels, self.outputs, self.relu = conv.in_channels, conv.out_channels, relu
        self.side = conv.kernel_size[0]
        weight = conv.weight.detach()
        if self.side == 3:
            weight = torch.einsum("ai,bj,ocij->abco", TAPS, TAPS, weight.double()).flatten(0, 1).float()
        else:
            weight = weight.flatten(1).T[None]
        self.lanes = int(library.lanes())
        self.register_buffer("weight", pack_panels(weight, self.lanes))
        bias = weight.new_zeros(self.outputs) if conv.bias is None else conv.bias.detach().clone()
        self.register_buffer("bias", bias)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        library = load_library()
        lanes = 0 if library is None else int(library.lanes())
        if not lanes or (self.channels | self.outputs) % lanes:
            reason = f"this CPU's vectors have {lanes} lanes" if lanes else "this machine has no C compiler"
            raise UserError(
                f"The network was optimized for a CPU with vectors of {self.lanes} lanes, but {reason}: call "
                "optimize_for_inference on this machine instead."
            )
        if lanes != self.lanes:
            self.weight = pack_panels(unpack_panels(self.weight, self.channels, self.lanes), lanes)
            self.lanes = lanes

    @staticmethod
    def is_suitable(conv: nn.Conv2d) -> bool:
        """Return whether a compiler exists, and a convolution is one of these, of whole vectors of channels."""
        library = load_library()
        plain = (conv.stride, conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        if library is None or not plain or (conv.in_channels | conv.out_channels) % int(library.lanes()):
            return False
        return (conv.kernel_size, conv.padding) in (((1, 1), (0, 0)), ((3, 3), (1, 1)))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute the convolution, for 1×1 plus another map of its output's shape, and the ReLU.

        Raises:
            UserError: the input is on another device, has other channels, or needs a gradient.
        """
        check_input(x, self.channels)
        x = lay_out(x.float(), torch.channels_last)
        batch, _, height, width = x.shape
        y = x.new_empty(batch, height, width, self.outputs).permute(0, 3, 1, 2)
        if not y.numel():  # as for a detector that found nothing: there is no work to share
            return y
        threads = torch.get_num_threads()
        if self.side == 1:
            rows = batch * height * width
            chunk = share_rows(rows, max(24, ROW_ELEMENTS // (self.channels + self.outputs)), threads)
            row_sizes = RowSizes(threads, rows, self.channels, self.outputs, chunk, self.relu)
            if other is not None:
                other = lay_out(other.float(), torch.channels_last).expand_as(y)
            self.call("pointwise", row_sizes, x, self.weight, self.bias, other, y)
            return y
        tiles = min(TILES, ceil(batch * ceil(height / 2) * ceil(width / 2) / threads))
        sizes = WinogradSizes(threads, batch, height, width, self.channels, self.outputs, tiles, self.relu)
        scratch = x.new_empty(threads * ENTRIES * tiles * (self.channels + self.outputs))
        self.call("winograd", sizes, x, self.weight, self.bias, y, scratch)
        return y

    def call(self, name: str, sizes: ctypes.Structure, *tensors: Tensor | None) -> None:
        pointers = (ctypes.c_void_p(0 if tensor is None else tensor.data_ptr()) for tensor in tensors)
        getattr(load_library(), name)(ctypes.byref(sizes), *pointers)


def check_input(x: Tensor, channels: int) -> None:
    """Check what the code in C can't.

    Raises:
        UserError: the input is on another device than a CPU, has other channels, or needs a gradient.
    """
    if x.device.type != "cpu":
        raise UserError(
            f"The input is on {x.device}, but the network was optimized for a CPU: move the network there before "
            "optimize_for_inference."
        )
    if x.ndim != 4 or x.shape[1] != channels:
        raise UserError(f"The input has the shape {tuple(x.shape)}, but the layer takes (B, {channels}, H, W).")
    if x.requires_grad and torch.is_grad_enabled():
        raise UserError(
            "The input needs a gradient, which a network of optimize_for_inference doesn't have: use the network that "
            "it was made of, or torch.no_grad()."
        )


def share_rows(rows: int, most: int, threads: int) -> int:
    """Return the rows of a chunk, at most so many, such that all threads get equally many chunks.

    If one chunk has all rows, threads share its outputs instead.
    """
    if rows <= most:
        return rows
    chunks = threads * ceil(rows / most / threads)
    return ceil(rows / chunks)
