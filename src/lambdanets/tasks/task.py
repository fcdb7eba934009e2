"""The base of all tasks: optimizer, schedule, sharding, and what jobs must know of a kind of learning."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer
from typing_extensions import override

from lambdanets.models.memory_format import lay_out_convolutions
from lambdanets.models.resnet import Bottleneck
from lambdanets.tasks.class_predictions import likeliest_classes, write_class_predictions
from lambdanets.tasks.optimizers import create_optimizer, parameter_groups
from lambdanets.tasks.schedule import warmup_cosine


class ScoreTable(NamedTuple):
    """The layout of a report's table for a task with more scores than fit into one column.

    Args:
        title: heading of the table.
        columns: for each column's heading, the scores in its cells, by their names below "test/".
        notes: lines below the table.
    """

    title: str
    columns: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()


class Task(pl.LightningModule):
    """A model with its training, and all that the jobs must know of a kind of learning.

    A subclass defines Lightning's steps and sets MONITOR and SCORES. The other members have defaults for models that
    give one logit per class; a subclass overrides what differs. Scores are fractions, and the larger ones are better.

    Args:
        model: the network that is trained.
        optimizer: from parameter groups to an optimizer; its learning rate is the peak.
        batch_size: images per batch and process.
        lr_batch: images in the batch that the learning rate is stated for; the rate of a run grows linearly with its
            global batch (Goyal et al. 2017). None takes the rate as it stands.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        final_epochs: epochs at the end with 1 % of the peak rate, fractions allowed.
        decay_norm_and_bias: apply weight decay to norms and biases too.

    Attributes:
        MONITOR: the validation score that selects the best checkpoint.
        SCORES: names of logged scores; reports compare the first one, TensorBoard sorts runs by any of them.
        SCORE_TITLES: titles of scores in reports, by their names below "test/".
        SCORE_TABLE: a second table of a report, or None.
        DATA_TASK: the `TASK` of the data modules whose batches the task takes.
        PUBLISHED_ON: the data set that published scores of such a task are for.
        PIPELINE_TAG: the Hugging Face hub's name for such a task.
        STATIC_SHAPES: whether all training batches have one shape, so that cuDNN may try its algorithms and CUDA graphs
            may be captured.
        NO_GRAPH: why a graph format can't hold the model, or None if it can.
        confusion: the last validation's confusion matrix, (num_classes, num_classes), a row per true class; or None.
    """

    MONITOR: ClassVar[str]
    SCORES: ClassVar[tuple[str, ...]]
    SCORE_TITLES: ClassVar[Mapping[str, str]] = {}
    SCORE_TABLE: ClassVar[ScoreTable | None] = None
    DATA_TASK: ClassVar[str] = "classification"
    PUBLISHED_ON: ClassVar[str] = "ImageNet"
    PIPELINE_TAG: ClassVar[str] = "image-classification"
    STATIC_SHAPES: ClassVar[bool] = True
    NO_GRAPH: ClassVar[str | None] = None
    confusion: Tensor | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Callable[..., Optimizer],
        batch_size: int,
        lr_batch: int | None = None,
        warmup_epochs: float = 0.0,
        final_epochs: float = 0.0,
        decay_norm_and_bias: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.lr_batch = lr_batch
        self.warmup_epochs = warmup_epochs
        self.final_epochs = final_epochs
        self.decay_norm_and_bias = decay_norm_and_bias

    @classmethod
    def interpret(cls, outputs: Any, classes: Sequence[str], *, top: int, **options: Any) -> Any:
        """Return the prediction for one image: as a default the likeliest classes with their probabilities.

        Args:
            outputs: the model's outputs for a batch of that image alone.
            classes: names of the classes.
            top: number of classes.
            **options: what other tasks need: "threshold", the lowest score of an object; "size", (H, W) of the image;
                "inputs", the image as the model gets it.
        """
        return likeliest_classes(outputs.float().softmax(-1)[0], classes, top)

    def write_predictions(
        self,
        files: Sequence[Path],
        predictions: Sequence[Any],
        folder: Path,
        *,
        labels: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, float]:
        """Print the predictions for image files and write them into a folder.

        Args:
            files: the images.
            predictions: the output of `predict_step` for each image: as a default its class probabilities.
            folder: an existing folder for the results.
            labels: the names of the "classes", and what else the data module's `labels` returned in training.
            options: the keys of job=predict, such as "top" and "threshold".

        Returns:
            Numbers that the job returns, such as that of the images.
        """
        write_class_predictions(files, predictions, folder / "predictions.json", labels["classes"], options["top"])
        return {"images": len(files)}

    def on_validation_start(self) -> None:
        """Take rank 0's statistics of batch norms under trainer=fsdp, which checkpoints hold; DDP does the same."""
        if isinstance(self.model, FSDPModule):
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def configure_model(self) -> None:
        """Shard the model's blocks, then the rest of it, under trainer=fsdp (FSDP2); else lay it out for a GPU."""
        if self.device_mesh is None and self.trainer.strategy.root_device.type == "cuda":
            lay_out_convolutions(self.model)
        if self.device_mesh is not None and not isinstance(self.model, FSDPModule):
            layer_sync = getattr(self.trainer.strategy, "_layer_sync", None)
            if layer_sync is not None:  # Lightning synchronizes batch norms for DDP only
                layer_sync.apply(self.model)
            mesh = self.device_mesh["data_parallel"]
            blocks = [module for module in self.model.modules() if isinstance(module, Bottleneck)]
            users = Counter(parameter for block in blocks for parameter in {*block.parameters()})
            for block in blocks:
                if all(users[parameter] == 1 for parameter in block.parameters()):  # no table that blocks share
                    fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients, so that the batches of each optimizer step have equal weights that sum to 1.

        Lightning divides each loss by accumulate_grad_batches, although the last step of an epoch may have fewer
        batches.
        """
        accumulated = self.trainer.accumulate_grad_batches
        first = self.trainer.fit_loop.batch_idx // accumulated * accumulated
        batches = min(accumulated, self.trainer.num_training_batches - first)
        super().backward(loss if batches == accumulated else loss * (accumulated / batches), *args, **kwargs)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        groups = parameter_groups(self.model, decay_norm_and_bias=self.decay_norm_and_bias)
        optimizer = create_optimizer(self.optimizer, groups)
        if self.trainer.gradient_clip_val:
            # Lightning refuses to clip gradients that a fused optimizer would unscale after it; now the scaler does.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if self.lr_batch is not None:
            global_batch = self.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
            for group in optimizer.param_groups:
                group["lr"] *= global_batch / self.lr_batch
        total_steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        schedule = warmup_cosine(
            optimizer,
            warmup_steps=round(min(self.warmup_epochs * steps_per_epoch, total_steps / 2)),
            total_steps=total_steps,
            final_steps=round(min(self.final_epochs * steps_per_epoch, total_steps / 2)),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
