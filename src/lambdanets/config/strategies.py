"""The trainer's arguments on processes, batch norm and the writing of checkpoints."""

import os
from typing import Any

import torch
from lightning_fabric.plugins.environments import ClusterEnvironment
from omegaconf import DictConfig
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.nn import Module
from typing_extensions import override

from lambdanets.callbacks import AtomicCheckpointIO
from lambdanets.distributed.devices import count_local_processes
from lambdanets.distributed.launcher import detect_launcher, slurm_environment
from lambdanets.distributed.rendezvous import init_process_group
from lambdanets.errors import UserError
from lambdanets.models.sync_batch_norm import synchronize_batch_norms


class SyncBatchNorm(LayerSync):
    """Synchronised batch norm that also runs on a CPU."""

    @override
    def apply(self, model: Module) -> Module:
        return synchronize_batch_norms(model)

    @override
    def revert(self, model: Module) -> Module:
        return model


def distribution(config: DictConfig) -> dict[str, Any]:
    """The trainer's arguments on processes, batch norm and the writing of checkpoints.

    Raises:
        UserError: FSDP together with averaged weights, which Lightning can't shard.
    """
    trainer = config.trainer
    plugins: list[Any] = [environment(), AtomicCheckpointIO()]
    if trainer.sync_batchnorm:
        plugins.append(SyncBatchNorm())
    found: dict[str, Any] = {"plugins": plugins, "sync_batchnorm": False}
    if detect_launcher() == "torchrun" and trainer.strategy != "auto":
        init_process_group("nccl" if torch.cuda.is_available() and trainer.accelerator != "cpu" else "gloo")
    if trainer.strategy == "fsdp":
        if config.recipe.ema_decay is not None:
            raise UserError("trainer=fsdp can't average weights: set recipe.ema_decay=null, or use trainer=ddp.")
        world = count_local_processes(trainer) * trainer.num_nodes
        found["strategy"] = ModelParallelStrategy(
            data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return found


def environment() -> ClusterEnvironment:
    """Who has started this process; never left to Lightning, which may see a SLURM that didn't."""
    match detect_launcher():
        case "torchrun":
            return TorchElasticEnvironment()
        case "slurm":
            return slurm_environment()
    os.environ.setdefault("LOCAL_RANK", "0")
    return LightningEnvironment()
