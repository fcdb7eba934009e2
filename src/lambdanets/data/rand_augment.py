"""RandAugment, random erasing, MixUp and CutMix of whole batches, on the device where they lie."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class BatchRandAugment(v2.RandAugment):
    """RandAugment (Cubuk et al. 2020) with its own draws for each image of a batch: (B, C, H, W) uint8 → the same.

    All images that drew the same operation go through it together, so that a batch costs as many calls as there are
    operations, not images. Draws are on the CPU: a GPU isn't waited for. Arguments as torchvision's.
    """

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        names = list(self._AUGMENTATION_SPACE)
        for _ in range(self.num_ops):
            drawn = torch.randint(2 * len(names), (len(images),))
            result = images.clone()
            for choice in drawn.unique().tolist():
                name, negative = names[choice // 2], choice % 2
                magnitudes, signed = self._AUGMENTATION_SPACE[name]
                values = magnitudes(self.num_magnitude_bins, height, width)
                magnitude = float(values[self.magnitude]) if values is not None else 0.0
                members = (drawn == choice).nonzero()[:, 0].to(images.device, non_blocking=True)
                result[members] = self._apply_image_or_video_transform(
                    images[members],
                    name,
                    -magnitude if signed and negative else magnitude,
                    interpolation=self.interpolation,
                    fill=self._fill,
                )
            images = result
        return images


def random_erasing(images: Tensor, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2020): in that share of the images, a rectangle of 2 to 33 % of the area becomes 0.

    Args:
        images: (B, C, H, W), normalized, so that 0 is the mean.
        probability: of an image to lose a rectangle.
    """
    batch, _, height, width = images.shape
    area = height * width * torch.empty(batch).uniform_(0.02, 0.33)
    ratio = torch.empty(batch).uniform_(-1, 1).mul(torch.tensor(3.3).log()).exp()
    rows = (area * ratio).sqrt().round().clamp(1, height)
    columns = (area / ratio).sqrt().round().clamp(1, width)
    top = (torch.rand(batch) * (height - rows + 1)).floor()
    left = (torch.rand(batch) * (width - columns + 1)).floor()
    rows = rows * (torch.rand(batch) < probability)
    box = torch.stack([top, left, top + rows, left + columns]).to(images.device, non_blocking=True)[:, :, None, None]
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    return images.masked_fill(((y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3]))[:, None], 0.0)


def mixed(images: Tensor, labels: Tensor, *, classes: int, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019), by chance one of those whose alpha isn't 0.

    Args:
        images: (B, C, H, W) floats.
        labels: (B,) int64.
        classes: their number.
        mixup: MixUp's alpha.
        cutmix: CutMix's alpha.

    Returns:
        The mixed images and the labels' shares, (B, classes).
    """
    ways: list[v2.Transform] = []
    if mixup:
        ways.append(v2.MixUp(alpha=mixup, num_classes=classes))
    if cutmix:
        ways.append(v2.CutMix(alpha=cutmix, num_classes=classes))
    return v2.RandomChoice(ways)(images, labels)
