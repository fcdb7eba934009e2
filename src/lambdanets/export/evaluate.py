"""Accuracy of networks and exported graphs, of any format, on images of a split."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from lambdanets.data import ImageData


def classify_images(
    networks: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterator[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Classify the same images by several networks.

    Args:
        networks: by name, (B, C, H, W) → (B, num_classes); a network, a graph, or what `lambdanets.load` returns.
        batches: normalized images (B, C, H, W) and labels (B,).

    Returns:
        The predicted classes (N,) by name, and the labels (N,).
    """
    classes: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: list[Tensor] = []
    with torch.inference_mode():
        for images, targets in batches:
            labels.append(targets)
            for name, network in networks.items():
                classes[name].append(network(images).argmax(-1))
    return {name: torch.cat(parts) for name, parts in classes.items()}, torch.cat(labels)


def pattern_image(channels: int, size: tuple[int, int]) -> Tensor:
    """Return an image that is the same everywhere, (channels, H, W) uint8: 37 y + 101 x + 59 c modulo 256.

    Args:
        channels: number of channels; c counts them.
        size: (H, W); y counts rows and x columns.
    """
    c, y, x = (torch.arange(count) for count in (channels, *size))
    return ((37 * y[:, None] + 101 * x + 59 * c[:, None, None]) % 256).to(torch.uint8)


def read_images(data: ImageData, split: Any, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images of a split, prepared as in evaluation: batches (B, C, H, W) float32 and labels (B,).

    Args:
        data: the data module of the split.
        split: `data.val_set` or `data.test_set`.
        count: number of images, spread evenly over the split, since files are sorted by class.
    """
    size = len(split)
    count = min(count, size)
    indices = torch.arange(count) * size // max(count, 1)
    part = TensorDataset(*split[indices]) if isinstance(split, TensorDataset) else Subset(split, indices.tolist())
    for batch in data.make_loader(part):
        images, labels = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, torch.device("cpu"), 0), 0)
        if len(labels):  # all images of a batch may be corrupt
            yield images, labels
