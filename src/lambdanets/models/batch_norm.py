"""Batch norms of other kinds: frozen, and synchronized over all processes on any device."""

from collections.abc import Callable

import torch
import torch.distributed.nn.functional as dist
from torch import Tensor, nn
from typing_extensions import Self, override


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that keeps its statistics, gain and bias, in training too: (B, C, H, W) → (B, C, H, W).

    For the backbones of detectors, whose batches are small.
    """

    @override
    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the mean and variance of the global batch; unlike torch's SyncBatchNorm not only on GPUs.

    (B, C, H, W) → (B, C, H, W); statistics in float32, or float64 for float64 inputs. Processes may have batches and
    maps of different sizes. In evaluation, and in a single process, it is nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return super().forward(x)
        dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
        own_count = x.new_full((1,), x.numel() // x.shape[1], dtype=dtype)
        sums = dist.all_reduce(torch.cat([x.sum((0, 2, 3), dtype=dtype), own_count]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # The mean of squared differences costs a second reduction; the difference of mean squares would cancel.
        centered = x.to(dtype) - mean[:, None, None]
        variance = dist.all_reduce(centered.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance.detach() * count / (count - 1)).to(self.running_var.dtype), momentum)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        y = centered * scale[:, None, None]
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return y.to(x.dtype)


def freeze_batch_norms(model: nn.Module) -> nn.Module:
    """Replace the batch norms of a model by frozen ones, with the same parameters and names."""
    return replace_batch_norms(model, lambda norm: convert(norm, FrozenBatchNorm2d).requires_grad_(False).eval())


def synchronize_batch_norms(model: nn.Module, *, on_gpu: bool = False) -> nn.Module:
    """Replace the batch norms of a model by synchronized ones, with the same parameters and names.

    Frozen batch norms stay frozen.

    Args:
        model: the model.
        on_gpu: whether it will train on a GPU, for which torch's own are faster.
    """

    def synchronized(norm: nn.BatchNorm2d) -> nn.Module:
        if isinstance(norm, FrozenBatchNorm2d):
            return norm
        if on_gpu:
            return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return convert(norm, SyncBatchNorm2d)

    return replace_batch_norms(model, synchronized)


def replace_batch_norms(model: nn.Module, new_norm: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
    """Replace each batch norm of a model, also the model itself if it is one."""
    if isinstance(model, nn.BatchNorm2d):
        return new_norm(model)
    for name, module in model.named_children():
        setattr(model, name, replace_batch_norms(module, new_norm))
    return model


def convert(norm: nn.BatchNorm2d, kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    """Return a batch norm of another class with the same options, parameters and buffers."""
    new = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
        setattr(new, name, tensor)
    return new.train(norm.training)
