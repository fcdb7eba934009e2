"""Augmentation of a batch, image by image."""

import torch
from torch.nn import functional as F

from lambdanets.data import Augmentation


def test_crops_are_windows_of_the_padded_image_each_at_its_own_place():
    torch.manual_seed(0)
    images = torch.arange(1, 64 * 2 * 25 + 1).view(64, 2, 5, 5)
    found = Augmentation(crop_padding=2).batch(images)
    places = set()
    for image, crop in zip(images, found, strict=True):
        padded = F.pad(image, (2, 2, 2, 2))
        windows = {(i, j): padded[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)}
        matches = [place for place, window in windows.items() if torch.equal(window, crop)]
        assert matches
        places.add(matches[0])
    assert len(places) > 12


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    torch.manual_seed(0)
    images = torch.randint(256, (400, 1, 3, 4), dtype=torch.uint8)
    found = Augmentation(flip=True).batch(images)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(found, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(found, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_nothing_asked_changes_nothing():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(Augmentation().batch(images), images)


def test_rand_augment_treats_each_image_by_itself():
    torch.manual_seed(0)
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    found = Augmentation(rand_augment={"num_ops": 2, "magnitude": 15}).batch(image.expand(16, -1, -1, -1))
    assert found.shape == (16, 3, 16, 16)
    assert found.dtype == torch.uint8
    assert len({tuple(one.flatten().tolist()) for one in found}) > 8


def test_one_image_of_any_size_becomes_a_square():
    torch.manual_seed(0)
    transform = Augmentation(flip=True, rand_augment={"num_ops": 1, "magnitude": 5}).one((24, 24))
    assert transform(torch.randint(256, (3, 50, 31), dtype=torch.uint8)).shape == (3, 24, 24)
