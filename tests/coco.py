"""A small data set in COCO's format: colored rectangles and ellipses, with every kind of annotation that COCO has."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "disc"}, {"id": 90, "name": "bar"}]
COLORS = [(220, 40, 40), (40, 220, 40), (40, 40, 220)]  # of the categories


def make_coco(root, *, train=8, val=4, size=(48, 64)):
    """Write train2017/, val2017/ and annotations/ to root; with polygons, both run-length encodings, and crowds.

    In each split, every fourth image from the second on has no objects, from the third on is gray, and from the fourth
    on is taller than wide.
    """
    generator = np.random.default_rng(0)
    annotation_id = 0
    for split, count in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for index in range(count):
            height, width = size[::-1] if index % 4 == 3 else size
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            image_id = 100 + index
            name = f"{image_id:012}.png"
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for category in range(0 if index % 4 == 1 else 3):
                annotation_id += 1
                annotations.append(draw_object(pixels, generator, category, annotation_id, image_id))
            image = Image.fromarray(pixels)
            (image.convert("L") if index % 4 == 2 else image).save(root / split / name)
        document = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES[::-1]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def draw_object(pixels, generator, category, annotation_id, image_id):
    """Draw an object of a category, given by its index, into pixels; return its annotation."""
    height, width = pixels.shape[:2]
    box_height, box_width = (int(x) for x in generator.integers(8, 24, 2))
    top, left = int(generator.integers(0, height - box_height)), int(generator.integers(0, width - box_width))
    bottom, right = top + box_height, left + box_width
    rows, columns = np.mgrid[:height, :width]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    if category == 1:
        y, x = (rows + 0.5 - top) / box_height * 2 - 1, (columns + 0.5 - left) / box_width * 2 - 1
        inside = x**2 + y**2 <= 1
    pixels[inside] = COLORS[category]
    rle = mask_api.encode(np.asfortranarray(inside.astype(np.uint8)))
    if category == 0:
        segmentation = [[left, top, right, top, right, bottom, left, bottom]]
    elif category == 1:
        segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
    else:
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], inside.T.ravel().astype(int), [2]]))))
        counts = ([0] if inside[0, 0] else []) + runs.tolist()
        segmentation = {"size": [height, width], "counts": counts}
    return {
        "id": annotation_id, "image_id": image_id, "category_id": CATEGORIES[category]["id"],
        "bbox": [left, top, box_width, box_height], "area": int(inside.sum()),
        "iscrowd": int(category == 2 and annotation_id % 2), "segmentation": segmentation,
    }  # fmt: skip
