"""Detections in the pixels of the image file."""

import pytest
import torch
from pycocotools import mask as api

from lambdanets.tasks import predictions
from lambdanets.tasks.predictions import coco_results, paste_masks, rescale_predictions

# Two objects in an input of 32 × 64 pixels: the first fills its box, the second the upper half of its own.
UPPER_HALF = torch.cat([torch.ones(1, 14, 28), torch.zeros(1, 14, 28)], 1)
DETECTIONS = {
    "boxes": torch.tensor([[8.0, 4.0, 40.0, 20.0], [0.0, 0.0, 64.0, 32.0]]),
    "scores": torch.tensor([0.9, 0.4]),
    "labels": torch.tensor([2, 1]),
    "masks": torch.stack([torch.ones(1, 28, 28), UPPER_HALF]),
}


@pytest.mark.parametrize("pixels_per_chunk", [1, 2**25])
def test_boxes_and_masks_have_the_scale_of_the_file(pixels_per_chunk, monkeypatch):
    monkeypatch.setattr(predictions, "MASK_PIXELS_PER_CHUNK", pixels_per_chunk)
    prediction = rescale_predictions(DETECTIONS, (32, 64), (96, 128), image_id=7)
    assert (prediction.image_id, prediction.size) == (7, (96, 128))
    # Twice as wide and three times as high, as x, y, width, height.
    assert prediction.boxes.tolist() == [[16, 12, 64, 48], [0, 0, 128, 96]]
    filled, half = (torch.from_numpy(api.decode(mask)) for mask in prediction.masks)
    assert filled.shape == (96, 128)
    assert filled.sum() == 64 * 48 == filled[12:60, 16:80].sum()
    assert half.sum() == 128 * 48 - 4 == half[:48].sum()  # without the corners


def test_objects_above_a_threshold():
    prediction = rescale_predictions(DETECTIONS, (32, 64), (32, 64), image_id=7)
    assert prediction.above(0.0).scores.tolist() == pytest.approx([0.9, 0.4])
    confident = prediction.above(0.5)
    assert confident.labels.tolist() == [2]
    assert (len(confident.boxes), len(confident.scores), len(confident.masks)) == (1, 1, 1)
    assert len(prediction.above(0.95).labels) == 0


def test_results_have_the_ids_of_coco():
    prediction = rescale_predictions(DETECTIONS, (32, 64), (32, 64), image_id=7)
    results = coco_results([prediction], category_ids=[3, 90])
    assert [(entry["image_id"], entry["category_id"]) for entry in results["boxes"]] == [(7, 90), (7, 3)]
    assert results["boxes"][0]["bbox"] == [8, 4, 32, 16]
    assert "bbox" not in results["masks"][0]
    assert api.area(results["masks"][1]["segmentation"]) == 64 * 16


def test_pasted_masks_are_bilinear_samples():
    """Against PyTorch's sampling of the whole image, for boxes that cross its borders or have no size, too."""
    torch.manual_seed(0)
    size, masks = (37, 50), torch.rand(40, 28, 28, dtype=torch.float64)
    centers, sides = torch.rand(40, 2) * 60 - 5, torch.rand(40, 2) * 40
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], 1).double()
    boxes[0, 2:] = boxes[0, :2]
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    grid_x = (x[None] - boxes[:, 0:1]) / (boxes[:, 2:3] - boxes[:, 0:1]).clamp(min=1e-6) * 2 - 1
    grid_y = (y[None] - boxes[:, 1:2]) / (boxes[:, 3:4] - boxes[:, 1:2]).clamp(min=1e-6) * 2 - 1
    grid = torch.stack([grid_x[:, None].expand(-1, 37, -1), grid_y[:, :, None].expand(-1, -1, 50)], -1)
    expected = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    assert torch.equal(paste_masks(masks, boxes, size), expected > 0.5)


@pytest.mark.parametrize("radius", [6, 10, 16])
def test_the_mask_of_a_disc_keeps_its_area(radius):
    cells = (torch.arange(28) + 0.5) / 14 - 1
    disc = ((cells[:, None] ** 2 + cells**2) < 1).double()
    box = torch.tensor([[20.3, 21.6, 20.3 + 2 * radius, 21.6 + 2 * radius]], dtype=torch.float64)
    pasted = paste_masks(disc[None], box, (80, 80))
    assert pasted.sum().item() == pytest.approx(torch.pi * radius**2, rel=0.03)
