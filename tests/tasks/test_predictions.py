"""Detections in the pixels of the image file."""

import pytest
import torch
from pycocotools import mask as api

from lambdanets.tasks import predictions
from lambdanets.tasks.predictions import coco_results, rescale_predictions

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
    assert filled[14:58, 18:78].float().mean() > 0.99  # pasting may round the corners off
    assert filled.sum() == pytest.approx(64 * 48, rel=0.06)
    assert not filled[64:].any()
    assert half[:46, 2:126].float().mean() > 0.99
    assert not half[50:].any()


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
    assert api.area(results["masks"][1]["segmentation"]) == pytest.approx(64 * 16, rel=0.06)
