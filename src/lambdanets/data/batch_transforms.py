"""RandAugment, random erasing, MixUp and CutMix of whole batches, on the device of the batch."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.transforms import v2


class AsynchronousConstants(TorchFunctionMode):
    """Context in which tensors made of Python numbers reach a GPU without waiting for it.

    torchvision's transforms make their constants with `torch.tensor(numbers, device=…)`, and each one would wait until
    the GPU has finished all of its work.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and device is not None and not isinstance(args[0], Tensor):
            return function(*args, **{**kwargs, "device": "cpu"}).to(device, non_blocking=True)
        return function(*args, **kwargs)


class BatchRandAugment(v2.RandAugment):
    """RandAugment (Cubuk et al. 2020) with separate draws for each image: (B, C, H, W) uint8 → (B, C, H, W) uint8.

    All images that drew the same operation go through it together, so that a batch takes one call per operation
    instead of one per image. The draws are made on the CPU, to avoid a GPU synchronization. Takes the arguments of
    torchvision's RandAugment.
    """

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        names = list(self._AUGMENTATION_SPACE)
        for _ in range(self.num_ops):
            choices = torch.randint(2 * len(names), (len(images),))
            result = images.clone()
            for choice in choices.unique().tolist():
                name, negative = names[choice // 2], choice % 2
                magnitudes, signed = self._AUGMENTATION_SPACE[name]
                values = magnitudes(self.num_magnitude_bins, height, width)
                magnitude = float(values[self.magnitude]) if values is not None else 0.0
                members = (choices == choice).nonzero()[:, 0].to(images.device, non_blocking=True)
                result[members] = self._apply_image_or_video_transform(
                    images[members],
                    name,
                    -magnitude if signed and negative else magnitude,
                    interpolation=self.interpolation,
                    fill=self._fill,
                )
            images = result
        return images


def erase_rectangles(images: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of 2 to 33 % of an image's area to 0 (random erasing, Zhong et al. 2020).

    Args:
        images: (B, C, H, W), normalized, so that 0 is the mean.
        probability: probability that an image is changed.
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


def mix_images(
    images: Tensor, labels: Tensor, *, num_classes: int, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Apply MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019), one of them at random if neither alpha is 0.

    Args:
        images: (B, C, H, W) float.
        labels: (B,) int64.
        num_classes: number of classes.
        mixup: MixUp's alpha.
        cutmix: CutMix's alpha.

    Returns:
        The mixed images, and the labels as probabilities, (B, num_classes).
    """
    transforms: list[v2.Transform] = []
    if mixup:
        transforms.append(v2.MixUp(alpha=float(mixup), num_classes=num_classes))
    if cutmix:
        transforms.append(v2.CutMix(alpha=float(cutmix), num_classes=num_classes))
    return v2.RandomChoice(transforms)(images, labels)
