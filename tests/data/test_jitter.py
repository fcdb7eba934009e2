"""Large-scale jitter: image, boxes, masks and labels of objects stay together."""

import pytest
import torch
from torchvision import tv_tensors

from lambdanets.data.jitter import Jitter


def make_scene(height=60, width=90):
    """Return an image with a red and a green rectangle, and its target; the green one is at the right edge."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    corners = [(5, 10, 35, 30), (60, 25, 90, 55)]
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    for index, (left, top, right, bottom) in enumerate(corners):
        image[index, top:bottom, left:right] = 255
        masks[index, top:bottom, left:right] = 1
    return image, {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor(corners).float(), format="XYXY", canvas_size=(height, width)),
        "masks": tv_tensors.Mask(masks),
        "labels": torch.tensor([1, 2]),
    }


@pytest.mark.parametrize("seed", range(30))
def test_objects_stay_together(seed):
    torch.manual_seed(seed)
    image, target = Jitter(64, scale=(0.3, 2.5))(*make_scene())
    assert max(image.shape[1:]) <= 64
    assert target["masks"].shape[1:] == image.shape[1:]
    assert len(target["boxes"]) == len(target["masks"]) == len(target["labels"])
    for box, mask, label in zip(target["boxes"], target["masks"], target["labels"], strict=True):
        # The color of a pixel shows its object: red is label 1, green is label 2.
        assert image[label - 1, mask.bool()].float().mean() > 200
        rows, columns = (image[label - 1] > 127).nonzero(as_tuple=True)
        extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (box - extent).abs().max() <= 1.5
    colors = {index + 1 for index in range(2) if (image[index] > 127).any()}
    assert colors == set(target["labels"].tolist())


def test_scale_1_fits_the_image_into_the_square():
    image, target = Jitter(45, scale=(1, 1), flip=0)(*make_scene())
    assert image.shape == (3, 30, 45)
    torch.testing.assert_close(target["boxes"], torch.tensor([[2.5, 5, 17.5, 15], [30, 12.5, 45, 27.5]]))


def test_a_flip_mirrors_boxes_and_masks():
    image, target = Jitter(90, scale=(1, 1), flip=1)(*make_scene())
    original, expected = make_scene()
    assert torch.equal(image, original.flip(2))
    assert torch.equal(target["masks"], expected["masks"].flip(2).as_subclass(torch.Tensor))
    assert target["boxes"].tolist() == [[55, 10, 85, 30], [0, 25, 30, 55]]


def test_an_image_may_have_no_objects():
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(60, 90)),
        "masks": tv_tensors.Mask(torch.zeros(0, 60, 90, dtype=torch.uint8)),
        "labels": torch.zeros(0, dtype=torch.long),
    }
    image, target = Jitter(64, scale=(2, 2))(make_scene()[0], target)
    assert image.shape == (3, 64, 64)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 64, 64)


@pytest.mark.parametrize("size", [(1, 8000), (8000, 1)])
def test_a_strip_keeps_a_pixel_of_its_shorter_side(size):
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size),
        "masks": tv_tensors.Mask(torch.zeros(0, *size, dtype=torch.uint8)),
        "labels": torch.zeros(0, dtype=torch.long),
    }
    image, _ = Jitter(64, scale=(0.1, 0.2))(torch.zeros(3, *size, dtype=torch.uint8), target)
    assert min(image.shape[1:]) == 1
    assert max(image.shape[1:]) <= 13
