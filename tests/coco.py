"""A small set in COCO's format: coloured rectangles and ellipses, with all that COCO's annotations have."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as api

CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "disc"}, {"id": 90, "name": "bar"}]


def make_coco(root, *, train=8, val=4, size=(48, 64)):
    """Writes train2017/, val2017/ and annotations/ below root; polygons, both kinds of run-length encodings, crowds.

    The second image of each split has no objects, the third is grey, the fourth upright.
    """
    generator = np.random.default_rng(0)
    number = 0
    for split, count in (("train2017", train), ("val2017", val)):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for place in range(count):
            height, width = size[::-1] if place % 4 == 3 else size
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            name = f"{100 + place:012}.png"
            images.append({"id": 100 + place, "file_name": name, "height": height, "width": width})
            for thing in range(0 if place % 4 == 1 else 3):
                number += 1
                annotations.append(draw(pixels, generator, thing, number, 100 + place))
            picture = Image.fromarray(pixels)
            (picture.convert("L") if place % 4 == 2 else picture).save(root / split / name)
        document = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES[::-1]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def draw(pixels, generator, thing, number, image):
    """Draws an object and returns its annotation."""
    height, width = pixels.shape[:2]
    tall, wide = (int(x) for x in generator.integers(8, 24, 2))
    top, left = int(generator.integers(0, height - tall)), int(generator.integers(0, width - wide))
    rows, columns = np.mgrid[:height, :width]
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    if thing == 1:
        y, x = (rows + 0.5 - top) / tall * 2 - 1, (columns + 0.5 - left) / wide * 2 - 1
        inside = x**2 + y**2 <= 1
    pixels[inside] = [(220, 40, 40), (40, 220, 40), (40, 40, 220)][thing]
    rle = api.encode(np.asfortranarray(inside.astype(np.uint8)))
    if thing == 0:
        segmentation = [[left, top, left + wide, top, left + wide, top + tall, left, top + tall]]
    elif thing == 1:
        segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
    else:
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], inside.T.ravel().astype(int), [2]]))))
        counts = ([0] if inside[0, 0] else []) + runs.tolist()
        segmentation = {"size": [height, width], "counts": counts}
    return {
        "id": number, "image_id": image, "category_id": CATEGORIES[thing]["id"], "bbox": [left, top, wide, tall],
        "area": int(inside.sum()), "iscrowd": int(thing == 2 and number % 2), "segmentation": segmentation,
    }  # fmt: skip
