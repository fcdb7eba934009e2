"""Effective receptive fields."""

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization, find_resnet
from lambdanets.callbacks.drawing import enlarge, tile_images, to_sequential_colors
from lambdanets.models import ResNet

FIELD_SIDE = 160  # pixels


class ReceptiveFieldVisualization(BudgetedVisualization):
    """Write the effective receptive field of the middle feature of each stage (Luo et al. 2016).

    - receptive_field: square roots of the fields, one image per stage.
    - `receptive_field/<stage>`: side of the centered square that holds half of the field, as a fraction of the image's.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images over which the fields are averaged.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 4) -> None:
        super().__init__(time_budget, count)

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        images, network = self.validation_images(), find_resnet(task)
        if images is None or network is None:
            return
        fields = receptive_fields(network, images)
        roots = torch.stack([field.sqrt() / field.sqrt().max().clamp(min=1e-12) for field in fields])
        tiles = tile_images(enlarge(to_sequential_colors(roots), FIELD_SIDE), columns=len(fields))
        writer.add_image("receptive_field", tiles, trainer.global_step)
        for stage, field in enumerate(fields):
            writer.add_scalar(f"receptive_field/c{stage + 2}", half_mass_side(field), trainer.global_step)


def receptive_fields(network: ResNet, images: Tensor) -> list[Tensor]:
    """Compute the effective receptive field of the middle feature of each stage.

    It is the absolute gradient of the feature, summed over channels, with respect to the pixels, as a mean over images
    and color channels.

    Args:
        network: a ResNet.
        images: (B, C, H, W).

    Returns:
        (H, W) for each stage.
    """
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        features = network.features(images)
        fields = []
        for stage in features:
            middle = stage[:, :, stage.shape[2] // 2, stage.shape[3] // 2].float().sum()
            (gradient,) = torch.autograd.grad(middle, images, retain_graph=stage is not features[-1])
            fields.append(gradient.detach().abs().float().mean((0, 1)).cpu())
    return fields


def half_mass_side(field: Tensor) -> float:
    """Return the side of the centered square that holds half of a field (H, W), as a fraction of the field's side."""
    height, width = field.shape
    rows = (torch.arange(height) - height // 2).abs()[:, None] / height
    columns = (torch.arange(width) - width // 2).abs()[None] / width
    distances, order = torch.maximum(rows, columns).flatten().sort()
    mass = field.flatten()[order].cumsum(0)
    if not mass[-1] > 0:
        return 0.0
    return float((2 * distances[int((mass < mass[-1] / 2).sum())]).clamp(max=1))
