"""Transforms of batches against torchvision's transforms of single images, and against their definitions."""

import pytest
import torch
from torchvision.transforms import v2

from lambdanets.data.batch_transforms import BatchRandAugment, erase_rectangles


@pytest.mark.parametrize("name", list(BatchRandAugment()._AUGMENTATION_SPACE))
def test_operations_on_a_batch_equal_torchvisions_on_each_image(name, monkeypatch):
    images = torch.randint(256, (6, 3, 12, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    space = {name: v2.RandAugment()._AUGMENTATION_SPACE[name]}
    monkeypatch.setattr(BatchRandAugment, "_AUGMENTATION_SPACE", space)
    transform = BatchRandAugment(num_ops=1, magnitude=9)
    torch.manual_seed(0)
    results = transform(images)
    torch.manual_seed(0)
    signs = torch.randint(2, (6,))
    magnitudes, signed = space[name]
    values = magnitudes(31, 12, 14)
    magnitude = 0.0 if values is None else float(values[9])
    for image, negative, result in zip(images, signs, results, strict=True):
        expected = v2.RandAugment()._apply_image_or_video_transform(
            image,
            name,
            -magnitude if signed and negative else magnitude,
            interpolation=transform.interpolation,
            fill=transform._fill,
        )
        assert torch.equal(result, expected)


def test_erasing_sets_a_rectangle_of_the_stated_area_in_the_stated_fraction_of_images():
    torch.manual_seed(0)
    images = erase_rectangles(torch.ones(2000, 1, 32, 32), 0.25)
    erased = (images == 0).flatten(1)
    changed = erased.any(1)
    assert 0.21 < changed.float().mean() < 0.29
    areas = erased[changed].float().mean(1)
    assert areas.min() > 0.01
    assert areas.max() < 0.36
    for image in images[changed][:50, 0]:
        rows, columns = (image == 0).any(1).nonzero()[:, 0], (image == 0).any(0).nonzero()[:, 0]
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert (image == 0).sum() == height * width
