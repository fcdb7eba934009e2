"""Files of detected objects."""

import json
from pathlib import Path

import torch
from PIL import Image

from lambdanets.data.masks import encode
from lambdanets.tasks.object_predictions import coco_image_ids, picture_names, write_object_predictions
from lambdanets.tasks.predictions import ImagePrediction


def test_files_that_are_named_after_ids_keep_them():
    assert coco_image_ids([Path("000000000139.jpg"), Path("b/000000000285.jpg")]) == [139, 285]
    assert coco_image_ids([Path("139.jpg"), Path("cat.jpg")]) == [1, 2]
    assert coco_image_ids([Path("a/139.jpg"), Path("b/0139.jpg")]) == [1, 2]  # not unique
    assert coco_image_ids([Path("139.jpg"), Path("2².jpg")]) == [1, 2]


def test_files_of_the_same_name_do_not_overwrite_each_other():
    assert picture_names([Path("a/x.jpg"), Path("b/x.png"), Path("y.jpg")]) == ["1-x.png", "2-x.png", "y.png"]


def test_the_confident_objects_are_drawn_and_all_are_written(tmp_path, capsys):
    file = tmp_path / "139.png"
    Image.new("RGB", (200, 100), "black").save(file)
    masks = torch.zeros(2, 100, 200, dtype=torch.uint8)
    masks[0, 20:60, 30:90] = 1
    masks[1, 80:, 150:] = 1
    boxes = torch.tensor([[30.0, 20.0, 60.0, 40.0], [150.0, 80.0, 50.0, 20.0]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.4], dtype=torch.float64)
    prediction = ImagePrediction(1, (100, 200), boxes, scores, torch.tensor([2, 1]), encode(masks))
    out = tmp_path / "out"
    out.mkdir()
    options = {"classes": ["ant", "bee"], "category_ids": [3, 90], "threshold": 0.5}
    assert write_object_predictions([file], [prediction], out, **options) == {"images": 1, "objects": 1}
    assert "139.png: 1 × bee" in capsys.readouterr().out
    drawn = torch.tensor(list(Image.open(out / "139.png").getdata())).reshape(100, 200, 3).sum(-1)
    assert drawn[50, 60] > 0
    assert drawn[80:, 150:].sum() == 0  # the object below the threshold
    assert json.loads((out / "images.json").read_text()) == [
        {"id": 139, "file_name": str(file), "height": 100, "width": 200}
    ]
    entries = json.loads((out / "boxes.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(139, 90), (139, 3)]
