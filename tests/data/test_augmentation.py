"""Augmentation of batches: each image by itself, labels with their images."""

import pytest
import torch
from torch.nn import functional as F

from lambdanets.data import Augmentation
from lambdanets.errors import UserError


def test_crops_are_windows_of_the_padded_image_at_different_positions():
    torch.manual_seed(0)
    images = torch.arange(1, 64 * 2 * 25 + 1).view(64, 2, 5, 5)
    crops = Augmentation(crop_padding=2).augment_pixels(images)
    positions = set()
    for image, crop in zip(images, crops, strict=True):
        padded = F.pad(image, (2, 2, 2, 2))
        windows = {(i, j): padded[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)}
        matches = [position for position, window in windows.items() if torch.equal(window, crop)]
        assert matches
        positions.add(matches[0])
    assert len(positions) > 12


def test_images_that_are_crops_are_not_cropped_again():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(Augmentation(crop_padding=2).augment_pixels(images, cropped=True), images)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    torch.manual_seed(0)
    images = torch.randint(256, (400, 1, 3, 4), dtype=torch.uint8)
    results = Augmentation(flip=True).augment_pixels(images)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(results, images, strict=True)]
    unchanged = [torch.equal(new, old) for new, old in zip(results, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, unchanged, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": -1},
        {"crop_scale": (1.0, 0.08)},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 1.5)},
        {"rand_augment": {"num_ops": 2, "magnitude": 31}},
        {"rand_augment": {"magnitude": -1}},
        {"erasing": 25},
        {"mixup": -0.2},
        {"cutmix": -1.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=rf"recipe\.augment\.{name}=.* is out of range: set "):
        Augmentation(**options)


def test_null_changes_nothing():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(4)
    none = Augmentation(crop_padding=None, crop_scale=None, erasing=None, mixup=None, cutmix=None)
    assert torch.equal(none.augment_pixels(images), images)
    results, new_labels = none.augment_normalized(images.float(), labels, num_classes=4)
    assert torch.equal(results, images.float())
    assert torch.equal(new_labels, labels)


def test_rand_augment_draws_for_each_image():
    torch.manual_seed(0)
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    augment = Augmentation(rand_augment={"num_ops": 2, "magnitude": 15})
    results = augment.augment_pixels(image.expand(16, -1, -1, -1))
    assert results.shape == (16, 3, 16, 16)
    assert results.dtype == torch.uint8
    assert len({tuple(result.flatten().tolist()) for result in results}) > 8


def test_labels_of_mixed_images_are_the_fractions_of_the_images():
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    images = F.one_hot(labels, 4).float()[:, :, None, None].expand(4, 4, 8, 8)
    for options in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixed, fractions = Augmentation(**options).augment_normalized(images, labels, num_classes=4)
        # Each image is 1 in the channel of its class, so that the mean of a channel is the fraction of that class.
        torch.testing.assert_close(mixed.mean((2, 3)), fractions)
        assert ((fractions > 0).sum(1) == 2).any()
        in_between = (mixed > 0) & (mixed < 1)
        assert in_between.any() == ("mixup" in options)  # CutMix replaces pixels, MixUp blends them


def test_with_both_alphas_batches_get_mixup_or_cutmix():
    torch.manual_seed(0)
    labels = torch.arange(4)
    images = F.one_hot(labels, 4).float()[:, :, None, None].expand(4, 4, 8, 8)
    augment = Augmentation(mixup=1.0, cutmix=1.0)
    blended = []
    for _ in range(40):
        mixed, _ = augment.augment_normalized(images, labels, num_classes=4)
        blended.append(bool(((mixed > 0) & (mixed < 1)).any()))
    assert 8 < sum(blended) < 32
