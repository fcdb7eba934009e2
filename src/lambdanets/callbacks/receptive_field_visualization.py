"""How far a network looks."""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization, skeleton
from lambdanets.callbacks.drawing import enlarged, rising, tiles
from lambdanets.models import ResNet


class ReceptiveFieldVisualization(BudgetedVisualization):
    """The effective receptive field of each stage's middle feature (Luo et al. 2016), as receptive_field.

    It is the gradient of the feature's sum over channels with respect to the image, in absolute value, the mean over
    images; its square root is drawn, a stage a picture. And receptive_field/<stage>, the side of the square around the
    feature that holds half of it, as a share of the image's.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 4) -> None:
        super().__init__(time_budget)
        self.count = count

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        images, network = self.images(self.count), skeleton(task)
        if images is None or network is None:
            return
        fields = receptive_fields(network, images)
        shown = torch.stack([field.sqrt() / field.sqrt().max().clamp(min=1e-12) for field in fields])
        writer.add_image("receptive_field", tiles(enlarged(rising(shown), 160), len(shown)), trainer.global_step)
        for stage, field in enumerate(fields):
            writer.add_scalar(f"receptive_field/c{stage + 2}", half_width(field), trainer.global_step)


def receptive_fields(network: ResNet, images: Tensor) -> list[Tensor]:
    """Of each stage, (H, W): how much each pixel counts for the feature in the middle."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        features = network.features(images)
        fields = []
        for stage in features:
            middle = stage[:, :, stage.shape[2] // 2, stage.shape[3] // 2].float().sum()
            (gradient,) = torch.autograd.grad(middle, images, retain_graph=stage is not features[-1])
            fields.append(gradient.detach().abs().float().mean((0, 1)).cpu())
    return fields


def half_width(field: Tensor) -> float:
    """The side of the square around the middle that holds half of a field, as a share of the field's own side."""
    height, width = field.shape
    rows = (torch.arange(height) - height // 2).abs()[:, None] / height
    columns = (torch.arange(width) - width // 2).abs()[None] / width
    distance, order = torch.maximum(rows, columns).flatten().sort()
    mass = field.flatten()[order].cumsum(0)
    if not mass[-1] > 0:
        return 0.0
    return float((2 * distance[int((mass < mass[-1] / 2).sum())]).clamp(max=1))
