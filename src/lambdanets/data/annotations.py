"""COCO's annotation files (Lin et al. 2014): reading and validation."""

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lambdanets.data.masks import find_segmentation_error
from lambdanets.errors import UserError


class ObjectAnnotation(NamedTuple):
    """An annotated object.

    Args:
        id: id of the annotation.
        label: class of the object, from 1 on in the order of the category ids; 0 is the background.
        box: x, y, width, height in pixels.
        area: area of the mask in pixels.
        crowd: True for a crowd region: excluded from training and from recall; detections in it are not false
            positives.
        segmentation: the mask in any of COCO's forms.
    """

    id: int
    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Any


class AnnotatedImage(NamedTuple):
    """An image and its annotated objects.

    Args:
        id: id of the image.
        file: the image file.
        size: (H, W) in pixels.
        objects: the annotations.
    """

    id: int
    file: Path
    size: tuple[int, int]
    objects: list[ObjectAnnotation]


class Categories(NamedTuple):
    """The classes of a data set: names, and ids in COCO's files, which may have gaps."""

    names: list[str]
    ids: list[int]


class SerializedImages:
    """A list of annotated images, serialized into one array.

    Worker processes share the array's memory. A list of Python objects would be copied into each of them little by
    little, since reference counting writes to the objects.
    """

    def __init__(self, images: Iterable[AnnotatedImage]) -> None:
        records = [pickle.dumps(tuple(image), pickle.HIGHEST_PROTOCOL) for image in images]
        self.ends = np.cumsum([len(record) for record in records], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(records), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> AnnotatedImage:
        start = 0 if index == 0 else self.ends[index - 1]
        # Safe to unpickle: the bytes were made above, in memory.
        return AnnotatedImage(*pickle.loads(self.bytes[start : self.ends[index]].tobytes()))


def read_json(file: Path) -> dict[str, Any]:
    """Read an annotation file.

    Raises:
        UserError: the file is missing, truncated, or not an annotation file.
    """
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"There is no '{file}': data.root must name a folder with COCO's images and annotations/instances_*.json."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"The annotations '{file}' can't be read ({error}): download the file again.") from error
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(document, dict) or key not in document
    ]
    if missing:
        raise UserError(f"'{file}' is not an annotation file in COCO's format: {', '.join(missing)} missing.")
    return document


def read_categories(document: dict[str, Any]) -> Categories:
    """Return the categories of an annotation file in the order of their ids."""
    categories = sorted((category["id"], category["name"]) for category in document["categories"])
    return Categories([name for _, name in categories], [category_id for category_id, _ in categories])


def read_images(
    document: dict[str, Any], folder: Path, categories: Categories, reject: Callable[[str, str], None]
) -> list[AnnotatedImage]:
    """Return the images of an annotation file in the order of their ids, without unusable images and objects.

    Args:
        document: content of the file.
        folder: folder of the images.
        categories: the classes; their order gives the labels.
        reject: called with the name of each unusable image and annotation, and with the reason in a sentence; may
            raise.

    Raises:
        UserError: the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no image folder '{folder}': data.root must name a folder in COCO's layout.")
    file_names = {file.name for file in folder.iterdir()}
    labels = {category_id: label for label, category_id in enumerate(categories.ids, 1)}
    images: dict[int, AnnotatedImage] = {}
    for entry in sorted(document["images"], key=lambda entry: entry["id"]):
        image_id, name = entry["id"], entry["file_name"]
        if name not in file_names:
            reject(f"image {image_id}", f"There is no file '{folder / name}' for image {image_id}: download it again.")
            continue
        images[image_id] = AnnotatedImage(image_id, folder / name, (entry["height"], entry["width"]), [])
    image_ids = {entry["id"] for entry in document["images"]}
    for annotation in document["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None and annotation["image_id"] in image_ids:
            continue  # the image has been rejected above
        reason = find_annotation_error(annotation, image, labels)
        if reason:
            reject(f"annotation {annotation['id']}", f"Annotation {annotation['id']} can't be used: {reason}.")
            continue
        assert image is not None
        image.objects.append(
            ObjectAnnotation(
                annotation["id"],
                labels[annotation["category_id"]],
                tuple(annotation["bbox"]),
                annotation["area"],
                bool(annotation.get("iscrowd", 0)),
                annotation["segmentation"],
            )
        )
    return list(images.values())


def find_annotation_error(
    annotation: dict[str, Any], image: AnnotatedImage | None, labels: dict[int, int]
) -> str | None:
    """Return what is wrong with an annotation, or None."""
    if image is None:
        return f"there is no image {annotation['image_id']}"
    if annotation["category_id"] not in labels:
        return f"there is no category {annotation['category_id']}"
    missing = [key for key in ("bbox", "area", "segmentation") if key not in annotation]
    if missing:
        return f"it has no {', '.join(missing)}"
    _, _, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        return f"its box {annotation['bbox']} in image {image.id} is empty"
    return find_segmentation_error(annotation["segmentation"], image.size)
