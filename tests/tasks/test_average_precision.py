"""Average precision against pycocotools, on drawn images and, where LAMBDANETS_COCO names a folder, on COCO's own.

    LAMBDANETS_COCO=/data/coco pytest tests/tasks/test_average_precision.py

The folder has annotations/instances_val2017.json and val2017/.
"""

import contextlib
import io
import json
import os

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lambdanets.data import Coco
from lambdanets.data.masks import decode, encode, to_rle
from lambdanets.tasks.average_precision import AveragePrecision
from lambdanets.tasks.predictions import ImagePrediction, coco_results
from tests.coco import make_coco

ORDER = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
ORDER += ("ar_small", "ar_medium", "ar_large")
COCO_FOLDER = os.environ.get("LAMBDANETS_COCO")


def jitter(image, classes, generator):
    """Return predictions for an image: its objects moved by some pixels, some left out, some of another class.

    An image without objects gets one that isn't there.
    """
    boxes, scores, labels, masks = [], [], [], []
    for annotation in image.objects:
        for _ in range(int(torch.randint(3, (), generator=generator))):
            reach = max(1, int(min(annotation.box[2:])) // 8)
            down, right = (int(x) for x in torch.randint(-reach, reach + 1, (2,), generator=generator))
            mask = decode([to_rle(annotation.segmentation, image.size)], image.size)
            mask = mask.roll((down, right), (1, 2))
            wrong = torch.rand((), generator=generator) < 0.2
            x, y, width, height = annotation.box
            boxes.append([x + right, y + down, width, height])
            scores.append(float(torch.randint(1, 10, (), generator=generator)) / 10)  # coarse, so that many are equal
            labels.append(int(torch.randint(1, classes + 1, (), generator=generator)) if wrong else annotation.label)
            masks += encode(mask)
    if not image.objects:
        boxes, scores, labels = [[2.0, 3.0, 9.0, 8.0]], [0.9], [1]
        mask = torch.zeros(1, *image.size, dtype=torch.uint8)
        mask[0, 3:11, 2:11] = 1
        masks = encode(mask)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return ImagePrediction(
        image.id, image.size,
        torch.tensor([boxes[index] for index in order], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([scores[index] for index in order], dtype=torch.float64),
        torch.tensor([labels[index] for index in order], dtype=torch.long),
        [masks[index] for index in order],
    )  # fmt: skip


def pycocotools_scores(annotations, results, folder):
    scores = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        for name, iou_type, prefix in (("boxes", "bbox", "box"), ("masks", "segm", "mask")):
            file = folder / f"{name}.json"
            file.write_text(json.dumps(results[name]))
            evaluation = COCOeval(truth, truth.loadRes(str(file)), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores |= {f"{prefix}_{key}": value for key, value in zip(ORDER, evaluation.stats, strict=True)}
    return scores


def keep_annotations(root, keep, *, categories):
    """Remove the validation annotations of other categories than `keep`, and other categories than `categories`."""
    file = root / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] in keep]
    document["categories"] = [c for c in document["categories"] if c["id"] in categories]
    file.write_text(json.dumps(document))


@pytest.fixture(params=["drawn", "a class without objects", "one class", "COCO"])
def data(request, tmp_path):
    if request.param == "COCO" and COCO_FOLDER is None:
        pytest.skip("LAMBDANETS_COCO, a folder with COCO's annotations/ and val2017/, is not set")
    root = COCO_FOLDER if request.param == "COCO" else make_coco(tmp_path / "drawn", train=1, val=12)
    if request.param == "a class without objects":
        keep_annotations(root, {3, 90}, categories={3, 7, 90})
    elif request.param == "one class":
        keep_annotations(root, {7}, categories={7})
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    return data


def test_all_twelve_scores_of_boxes_and_masks_are_those_of_pycocotools(data, tmp_path):
    generator = torch.Generator().manual_seed(0)
    split = data.test_set
    images = [split.images[index] for index in range(len(split))]
    predictions = [jitter(image, len(data.classes), generator) for image in images]
    targets = [data.evaluation_item(torch.zeros(3, *image.size, dtype=torch.uint8), image)[1] for image in images]
    metric = AveragePrecision()
    for index in reversed(range(len(images))):  # scores depend neither on the order of arrival nor on repeated images
        metric.update(predictions[index : index + 1], targets[index : index + 1])
    metric.update(predictions[:1], targets[:1])
    ours = {name: value.item() for name, value in metric.compute().items()}
    expected = pycocotools_scores(data.annotation_file("val"), coco_results(predictions, data.category_ids), tmp_path)
    assert ours == pytest.approx(expected, abs=1e-6)
    assert 0.1 < ours["box_ap"] < 0.95
    assert 0.1 < ours["mask_ap"] < 0.95


def test_an_object_whose_annotated_area_is_0_is_small_as_for_pycocotools(tmp_path):
    file = make_coco(tmp_path / "drawn", train=1, val=1) / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    side = 48  # by its mask, the object is of medium size
    document["images"] = [{**document["images"][0], "height": 64, "width": 64}]
    corners = [0, 0, side, 0, side, side, 0, side]
    annotation = {"segmentation": [corners], "bbox": [0, 0, side, side], "area": 0, "iscrowd": 0}
    document["annotations"] = [{**document["annotations"][0], **annotation}]
    file.write_text(json.dumps(document))
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, :side, :side] = 1
    data = Coco(root=str(tmp_path / "drawn"), max_corrupt=0.0)
    data.setup("test")
    image = data.test_set.images[0]
    label = image.objects[0].label
    box = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    prediction = ImagePrediction(
        image.id, image.size, box, torch.tensor([0.9], dtype=torch.float64), torch.tensor([label]), encode(mask)
    )
    metric = AveragePrecision()
    metric.update([prediction], [data.evaluation_item(torch.zeros(3, 64, 64, dtype=torch.uint8), image)[1]])
    ours = {name: value.item() for name, value in metric.compute().items()}
    assert ours == pytest.approx(
        pycocotools_scores(file, coco_results([prediction], data.category_ids), tmp_path), abs=1e-6
    )
    assert ours["mask_ap_small"] == pytest.approx(1)
