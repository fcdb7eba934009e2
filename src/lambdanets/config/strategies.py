"""The trainer's arguments on processes, sharding and batch norm."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric.plugins.environments import ClusterEnvironment
from omegaconf import DictConfig
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.nn import Module
from typing_extensions import override

from lambdanets.distributed.devices import count_local_processes
from lambdanets.distributed.launcher import detect_launcher, slurm_environment
from lambdanets.distributed.rendezvous import init_process_group
from lambdanets.errors import UserError
from lambdanets.models.batch_norm import synchronize_batch_norms


class SyncBatchNorm(LayerSync):
    """Synchronized batch norm that also runs on a CPU.

    Args:
        on_gpu: whether the training runs on GPUs; the model may not have moved there yet.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    @override
    def apply(self, model: Module) -> Module:
        return synchronize_batch_norms(model, on_gpu=self.on_gpu)

    @override
    def revert(self, model: Module) -> Module:
        return model


def trainer_strategy_options(config: DictConfig, plugins: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the trainer's arguments for the processes of a training.

    Args:
        config: the run's config.
        plugins: further plugins of the trainer.

    Raises:
        UserError: FSDP together with averaged weights, which Lightning cannot shard.
    """
    trainer = config.trainer
    options: dict[str, Any] = {"plugins": [cluster_environment(), *plugins], "sync_batchnorm": False}
    on_gpu = torch.cuda.is_available() and trainer.accelerator != "cpu"
    if trainer.sync_batchnorm:
        options["plugins"].append(SyncBatchNorm(on_gpu=on_gpu))
    if detect_launcher() == "torchrun" and trainer.strategy != "auto":
        init_process_group("nccl" if on_gpu else "gloo")
    if trainer.strategy == "fsdp":
        if config.recipe.ema_decay is not None:
            raise UserError("trainer=fsdp cannot average weights: set recipe.ema_decay=null, or use trainer=ddp.")
        processes = count_local_processes(trainer) * trainer.num_nodes
        options["strategy"] = ModelParallelStrategy(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return options


def cluster_environment() -> ClusterEnvironment:
    """Return Lightning's view of the launcher; Lightning's own guess may be a SLURM that did not start this process."""
    match detect_launcher():
        case "torchrun":
            return TorchElasticEnvironment()
        case "slurm":
            return slurm_environment()
    os.environ.setdefault("LOCAL_RANK", "0")
    return LightningEnvironment()
