"""Average precision is pycocotools', on COCO's own images where they are at hand, and on drawn ones."""

import contextlib
import io
import json

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lambdanets.data import Coco
from lambdanets.data.masks import decode, encode, to_rle
from lambdanets.tasks.average_precision import AveragePrecision
from lambdanets.tasks.predictions import ImagePrediction, coco_results
from tests.coco import make_coco
from tests.command import ROOT

ORDER = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100")
ORDER += ("ar_small", "ar_medium", "ar_large")
MINI = ROOT.parent / "shared" / "data" / "coco-mini"


def jittered(scene, classes, generator):
    """Predictions of a scene: truths moved by some pixels, some left out, some of another class, with coarse scores."""
    boxes, scores, labels, masks = [], [], [], []
    for thing in scene.objects:
        for _ in range(int(torch.randint(3, (), generator=generator))):
            reach = max(1, int(min(thing.box[2:])) // 8)
            down, right = (int(x) for x in torch.randint(-reach, reach + 1, (2,), generator=generator))
            mask = decode([to_rle(thing.segmentation, scene.size)], scene.size)
            mask = mask.roll((down, right), (1, 2))
            wrong = torch.rand((), generator=generator) < 0.2
            x, y, width, height = thing.box
            boxes.append([x + right, y + down, width, height])
            scores.append(float(torch.randint(1, 10, (), generator=generator)) / 10)  # many are equal
            labels.append(int(torch.randint(1, classes + 1, (), generator=generator)) if wrong else thing.label)
            masks += encode(mask)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return ImagePrediction(
        scene.id, scene.size,
        torch.tensor([boxes[place] for place in order], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([scores[place] for place in order], dtype=torch.float64),
        torch.tensor([labels[place] for place in order], dtype=torch.long),
        [masks[place] for place in order],
    )  # fmt: skip


def peer(annotations, results, folder):
    """The numbers of pycocotools."""
    numbers = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        for name, kind in (("boxes", "bbox"), ("masks", "segm")):
            file = folder / f"{name}.json"
            file.write_text(json.dumps(results[name]))
            judge = COCOeval(truth, truth.loadRes(str(file)), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            short = {"bbox": "box", "segm": "mask"}[kind]
            numbers |= {f"{short}_{key}": value for key, value in zip(ORDER, judge.stats, strict=True)}
    return numbers


@pytest.fixture(params=["drawn", "coco-mini"])
def data(request, tmp_path):
    if request.param == "coco-mini" and not MINI.is_dir():
        pytest.skip("coco-mini is not there")
    root = make_coco(tmp_path / "drawn", train=1, val=12) if request.param == "drawn" else MINI
    found = Coco(root=str(root), max_corrupt=0.0)
    found.setup("test")
    return found


def test_all_twelve_numbers_of_boxes_and_masks_are_pycocotools(data, tmp_path):
    generator = torch.Generator().manual_seed(0)
    split = data.test_set
    scenes = [split.images[place] for place in range(len(split))]
    found = [jittered(scene, len(data.classes), generator) for scene in scenes]
    truths = [data.evaluation_item(torch.zeros(3, *scene.size, dtype=torch.uint8), scene)[1] for scene in scenes]
    metric = AveragePrecision()
    for place in reversed(range(len(scenes))):  # the order of arrival doesn't count, nor an image that comes twice
        metric.update(found[place : place + 1], truths[place : place + 1])
    metric.update(found[:1], truths[:1])
    ours = {name: value.item() for name, value in metric.compute().items()}
    theirs = peer(data.annotation_file("val"), coco_results(found, data.category_ids), tmp_path)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert 0.1 < ours["box_ap"] < 0.95
    assert 0.1 < ours["mask_ap"] < 0.95
