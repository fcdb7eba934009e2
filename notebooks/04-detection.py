# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Detection
#
# `task=detection` trains Mask R-CNN on the same ResNet, with any mixer. COCO needs a cluster. Here a slim detector with lambda
# layers learns to detect and segment drawn boxes and discs, in a minute or two, from files in COCO's layout.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import lambdanets
from lambdanets.data.files import read_image
from lambdanets.tasks.predictions import rescale_predictions
from lambdanets.tasks.visualization import draw_objects

ROOT = Path.cwd().parent if Path.cwd().name == "notebooks" else Path.cwd()
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A data set in COCO's layout
#
# `train2017/`, `val2017/` and `annotations/instances_*.json`: images, categories, and for each object its box, its area and
# its outline as a polygon.


# %%
def draw(generator, side=64):
    """Draw an image with two objects; return it with their annotations."""
    pixels = np.full((side, side, 3), generator.integers(0, 80), np.uint8) + generator.integers(
        0, 9, (side, side, 1), np.uint8
    )
    objects = []
    for left in (2, side // 2):
        size = int(generator.integers(16, 28))
        x, y = left + int(generator.integers(0, side // 2 - size)), int(generator.integers(0, side - size))
        category = int(generator.integers(1, 3))
        angles = np.linspace(0, 2 * np.pi, 4 if category == 1 else 24, endpoint=False) + np.pi / 4
        radius = size / 2 * (2**0.5 if category == 1 else 1)
        outline = np.stack([x + size / 2 + radius * np.cos(angles), y + size / 2 + radius * np.sin(angles)], 1)
        rows, columns = np.mgrid[:side, :side] + 0.5
        far = np.abs([columns - x - size / 2, rows - y - size / 2])
        inside = (far.max(0) if category == 1 else np.hypot(*far)) <= size / 2
        pixels[inside] = generator.integers(120, 255, 3)
        box = [float(x), float(y), float(size), float(size)]
        area = {"area": float(inside.sum()), "iscrowd": 0}
        objects.append({"category_id": category, "bbox": box, "segmentation": [outline.flatten().tolist()], **area})
    return Image.fromarray(pixels), objects


generator = np.random.default_rng(0)
for split, count in (("train2017", 64), ("val2017", 8)):
    (work / "coco" / split).mkdir(parents=True)
    (work / "coco" / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        image, objects = draw(generator)
        name = f"{image_id:012}.png"
        image.save(work / "coco" / split / name)
        images.append({"id": image_id, "file_name": name, "height": image.height, "width": image.width})
        annotations += [{"id": len(annotations) + i, "image_id": image_id, **o} for i, o in enumerate(objects, 1)]
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (work / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))

# %% [markdown]
# ## Train

# %%
command = [sys.executable, str(ROOT / "run.py"), "task=detection", "model=mask_rcnn_small", "recipe=coco_small"]
options = ["mixer=lambda", "mixer.heads=2", f"data.root={work}/coco", "recipe.image_size=64", "recipe.epochs=12"]
smaller = ["model.backbone.stem=strided", "model.channels=32", "model.hidden=128", "model.proposals=60"]
run_options = ["name=shapes", "data.val_size=8", "+trainer.check_val_every_n_epoch=6"]
run_options += ["trainer.enable_progress_bar=false"]
process = subprocess.run([*command, *options, *smaller, *run_options], cwd=work, capture_output=True, text=True)
print(*process.stdout.splitlines()[-36:], sep="\n")
assert process.returncode == 0, process.stderr

# %% [markdown]
# The average precisions are COCO's: box and mask, over overlaps from 50 to 95 %, and by the size of objects (−1 for a size
# without objects).
#
# ## Predictions

# %%
(run,) = work.glob("outputs/shapes/*")
model = lambdanets.load(run)
fig, axes = plt.subplots(1, 4, figsize=(9, 2.6), dpi=60)
for axis, file in zip(axes.flat, sorted((work / "coco" / "val2017").glob("*.png")), strict=False):
    pixels = read_image(file)
    with torch.no_grad():
        (detections,) = model([model.preprocess(pixels)])
    size = tuple(pixels.shape[1:])
    objects = rescale_predictions(detections, size, size, image_id=0)
    confident = int((objects.scores >= 0.5).sum())
    labels, scores = objects.labels[:confident].tolist(), objects.scores[:confident].tolist()
    image = draw_objects(pixels, objects.boxes[:confident], objects.masks[:confident], labels, model.classes)
    axis.imshow(image.permute(1, 2, 0))
    captions = (f"{model.classes[label - 1]} {score:.0%}" for label, score in zip(labels, scores, strict=True))
    axis.set_title(", ".join(captions), fontsize=9)
    axis.set(xticks=[], yticks=[])
fig.tight_layout()
