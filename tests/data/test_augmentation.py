"""Augmentation of a batch, image by image."""

import io

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from lambdanets.data import Augmentation
from lambdanets.data.batch_transforms import BatchRandAugment, erase_rectangles
from lambdanets.data.files import Photo


def test_crops_are_windows_of_the_padded_image_each_at_its_own_place():
    torch.manual_seed(0)
    images = torch.arange(1, 64 * 2 * 25 + 1).view(64, 2, 5, 5)
    found = Augmentation(crop_padding=2).augment_pixels(images)
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
    found = Augmentation(flip=True).augment_pixels(images)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(found, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(found, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_nothing_asked_changes_nothing():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(Augmentation().augment_pixels(images), images)


def test_rand_augment_treats_each_image_by_itself():
    torch.manual_seed(0)
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    found = Augmentation(rand_augment={"num_ops": 2, "magnitude": 15}).augment_pixels(image.expand(16, -1, -1, -1))
    assert found.shape == (16, 3, 16, 16)
    assert found.dtype == torch.uint8
    assert len({tuple(one.flatten().tolist()) for one in found}) > 8


def test_a_crop_of_a_photo_of_any_size_becomes_a_square():
    torch.manual_seed(0)
    file = io.BytesIO()
    Image.new("RGB", (50, 31), "red").save(file, "JPEG")
    assert Augmentation().make_crop((24, 24))(Photo(file.getvalue(), "red")).shape == (3, 24, 24)


@pytest.mark.parametrize("name", list(BatchRandAugment()._AUGMENTATION_SPACE))
def test_operations_on_a_batch_are_torchvisions_on_each_image(name, monkeypatch):
    images = torch.randint(256, (6, 3, 12, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    space = {name: BatchRandAugment()._AUGMENTATION_SPACE[name]}
    monkeypatch.setattr(BatchRandAugment, "_AUGMENTATION_SPACE", space)
    transform = BatchRandAugment(num_ops=1, magnitude=9)
    torch.manual_seed(0)
    found = transform(images)
    torch.manual_seed(0)
    negative = torch.randint(2, (6,))
    magnitudes, signed = space[name]
    values = magnitudes(31, 12, 14)
    magnitude = 0.0 if values is None else float(values[9])
    for image, sign, result in zip(images, negative, found, strict=True):
        strength = -magnitude if signed and sign else magnitude
        alone = v2.RandAugment()._apply_image_or_video_transform(
            image, name, strength, interpolation=transform.interpolation, fill=transform._fill
        )
        assert torch.equal(result, alone)


def test_erasing_leaves_a_rectangle_of_the_stated_area_in_the_stated_share_of_images():
    torch.manual_seed(0)
    images = erase_rectangles(torch.ones(2000, 1, 32, 32), 0.25)
    erased = (images == 0).flatten(1)
    touched = erased.any(1)
    assert 0.21 < touched.float().mean() < 0.29
    areas = erased[touched].float().mean(1)
    assert areas.min() > 0.01
    assert areas.max() < 0.36
    for image in images[touched][:50, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert (image == 0).sum() == rows.sum() * columns.sum()


def test_mixed_images_carry_the_shares_of_their_labels():
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    images = F.one_hot(labels, 4).float()[:, :, None, None].expand(4, 4, 8, 8)
    for ways in ({"mixup": 1.0}, {"cutmix": 1.0}):
        found, shares = Augmentation(**ways).augment_normalized(images, labels, num_classes=4)
        # A channel of an image is its class, so its mean is that class's share.
        torch.testing.assert_close(found.mean((2, 3)), shares)
        assert ((shares > 0).sum(1) == 2).any()
