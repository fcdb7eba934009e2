"""Batch norm over the batches of all processes, on any device."""

import torch
import torch.distributed.nn.functional as dist
from torch import Tensor, nn

from lambdanets.models.frozen_batch_norm import FrozenBatchNorm2d


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the mean and variance of the global batch, as torch's SyncBatchNorm, which runs on GPUs only.

    (B, C, H, W) → (B, C, H, W); statistics in float32, or float64 for float64 inputs. All processes have the same
    feature size and batch. In evaluation, and in a single process, it is nn.BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return super().forward(x)
        kind = torch.float64 if x.dtype is torch.float64 else torch.float32
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = dist.all_reduce(x.sum((0, 2, 3), dtype=kind)) / count
        # Squared differences, not differences of squares, which cancel: a second reduction is the price.
        centred = x.to(kind) - mean[:, None, None]
        variance = dist.all_reduce(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), share)
            self.running_var.lerp_((variance.detach() * count / (count - 1)).to(self.running_var.dtype), share)
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.bias is not None:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)


def synchronize_batch_norms(model: nn.Module) -> nn.Module:
    """The model with its batch norms synchronised, on a GPU by torch's own layer; parameters and names stay.

    Frozen ones stay frozen.
    """
    for name, module in list(model.named_children()):
        if isinstance(module, FrozenBatchNorm2d):
            continue
        if not isinstance(module, nn.BatchNorm2d):
            synchronize_batch_norms(module)
        elif next(iter([*module.parameters(), *module.buffers()])).device.type == "cuda":
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
        else:
            module.__class__ = SyncBatchNorm2d
    return model
