"""COCO's annotation files (Lin et al. 2014), read and checked."""

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lambdanets.data.masks import wrong_segmentation
from lambdanets.errors import UserError


class Annotated(NamedTuple):
    """An object in an image.

    Args:
        id: of the annotation.
        label: its class, from 1 on in the order of the category ids; 0 is the background.
        box: x, y, width, height in pixels.
        area: of its mask, in pixels.
        crowd: whether it stands for many objects: neither learnt nor asked for, but what is found there isn't wrong.
        segmentation: its mask in any of COCO's forms.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Any


class Scene(NamedTuple):
    """An image and all that is annotated in it."""

    id: int
    file: Path
    size: tuple[int, int]
    objects: list[Annotated]


class Categories(NamedTuple):
    """The classes of a set: names, and COCO's ids of them, which have gaps."""

    names: list[str]
    ids: list[int]


class Scenes:
    """Scenes in order of their images' ids, packed into one array.

    Worker processes share it; of a hundred thousand Python objects each would come to have its own copy, as counting
    references to them writes to their memory.
    """

    def __init__(self, scenes: Iterable[Scene]) -> None:
        packed = [pickle.dumps(tuple(scene), pickle.HIGHEST_PROTOCOL) for scene in scenes]
        self.ends = np.cumsum([len(record) for record in packed], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Scene:
        start = 0 if index == 0 else self.ends[index - 1]
        image_id, file, size, objects = pickle.loads(self.bytes[start : self.ends[index]].tobytes())  # our own bytes
        return Scene(image_id, file, size, objects)


def read_json(file: Path) -> dict[str, Any]:
    """An annotation file.

    Raises:
        UserError: it is missing, cut off, or not one.
    """
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"There is no '{file}': data.root must name a folder with COCO's images and annotations/instances_*.json."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"The annotations '{file}' can't be read ({error}): fetch the file again.") from error
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(document, dict) or key not in document
    ]
    if missing:
        raise UserError(f"'{file}' is not an annotation file of COCO's form: it has no {', '.join(missing)}.")
    return document


def read_categories(document: dict[str, Any]) -> Categories:
    found = sorted((category["id"], category["name"]) for category in document["categories"])
    return Categories([name for _, name in found], [number for number, _ in found])


def read_scenes(
    document: dict[str, Any], folder: Path, categories: Categories, reject: Callable[[str, str], None]
) -> list[Scene]:
    """The images of an annotation file, without what can't be used.

    Args:
        document: the file's content.
        folder: of its images.
        categories: the classes; the order of their names gives the labels.
        reject: told of each image and annotation that is left out, by its name and by a sentence; or raises.

    Raises:
        UserError: the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}' of images: data.root must name a folder of COCO's layout.")
    there = {file.name for file in folder.iterdir()}
    labels = {number: label for label, number in enumerate(categories.ids, 1)}
    scenes: dict[int, Scene] = {}
    for image in sorted(document["images"], key=lambda image: image["id"]):
        number, name = image["id"], image["file_name"]
        if name not in there:
            reject(f"image {number}", f"There is no file '{folder / name}' for image {number}: fetch it again.")
            continue
        scenes[number] = Scene(number, folder / name, (image["height"], image["width"]), [])
    known = {image["id"] for image in document["images"]}
    for annotation in document["annotations"]:
        scene = scenes.get(annotation["image_id"])
        if scene is None and annotation["image_id"] in known:
            continue  # the image was rejected, and said
        wrong = wrong_annotation(annotation, scene, labels)
        if wrong:
            reject(f"annotation {annotation['id']}", f"Annotation {annotation['id']} can't be used: {wrong}.")
            continue
        assert scene is not None
        scene.objects.append(
            Annotated(
                annotation["id"],
                labels[annotation["category_id"]],
                tuple(annotation["bbox"]),
                annotation["area"],
                bool(annotation.get("iscrowd", 0)),
                annotation["segmentation"],
            )
        )
    return list(scenes.values())


def wrong_annotation(annotation: dict[str, Any], scene: Scene | None, labels: dict[int, int]) -> str | None:
    """What is wrong with an annotation, or None."""
    if scene is None:
        return f"there is no image {annotation['image_id']}"
    if annotation["category_id"] not in labels:
        return f"there is no category {annotation['category_id']}"
    absent = [key for key in ("bbox", "area", "segmentation") if key not in annotation]
    if absent:
        return f"it has no {', '.join(absent)}"
    _, _, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        return f"its box {annotation['bbox']} in image {scene.id} is empty"
    return wrong_segmentation(annotation["segmentation"], scene.size)
