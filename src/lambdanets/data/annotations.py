"""COCO's annotation files (Lin et al. 2014): reading and validation."""

import contextlib
import gc
import json
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lambdanets.data.annotation_errors import (
    FileFinder,
    find_annotation_error,
    find_image_error,
    has_extent,
    shorten,
    to_whole,
)
from lambdanets.errors import UserError
from lambdanets.machine import available_memory

# A parsed annotation file needs at least this many times its size in memory; 4.7 to 7 times were measured.
PARSED_SIZE = 4


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


@dataclass
class Rejections:
    """The unusable entries of an annotation file.

    Attributes:
        images: a sentence for each unusable image.
        annotations: a sentence for each unusable annotation.
        incomplete: ids of the images that are left out because one of their objects is unknown.
        shared_ids: ids that several different annotations have, which are used all the same.
    """

    images: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    incomplete: set[int] = field(default_factory=set)
    shared_ids: set[int] = field(default_factory=set)


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


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Create many objects without searching for cycles among them, which takes a third of the time of reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_json(file: Path) -> dict[str, Any]:
    """Read an annotation file.

    Raises:
        UserError: the file is missing, damaged or too large, or does not list objects in COCO's format.
    """
    try:
        check_memory(file)
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"There is no '{file}': data.root must name a folder with COCO's images and annotations/instances_*.json."
        ) from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"The annotations '{file}' can't be read ({reason}): download the file again.") from error
    check_document(file, document)
    return document


def check_memory(file: Path) -> None:
    """Check that an annotation file fits into memory.

    Raises:
        UserError: it doesn't.
    """
    needed, available = PARSED_SIZE * file.stat().st_size, available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"The annotations '{file}' need about {needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB "
            "are available: use a machine with more memory, or a part of the file."
        )


def check_document(file: Path, document: Any) -> None:
    """Check that the content of a file lists objects in COCO's format.

    Raises:
        UserError: it doesn't.
    """
    keys = ("images", "annotations", "categories")
    wrong = f"'{file}' is not an annotation file in COCO's format, such as instances_val2017.json: "
    if not isinstance(document, dict):
        raise UserError(f"{wrong}it holds a {type(document).__name__} and not an object with {', '.join(keys)}.")
    missing = [key for key in keys if key not in document]
    if missing:
        raise UserError(f"{wrong}{', '.join(missing)} missing.")
    for key in keys:
        if not isinstance(document[key], list):
            raise UserError(f"{wrong}its {key} are {shorten(document[key])} and not a list.")
    annotations = [annotation for annotation in document["annotations"] if isinstance(annotation, dict)]
    if annotations and not any(annotation.get("bbox") for annotation in annotations):
        raise UserError(f"'{file}' has no boxes, as if it were for captions or another task: use instances_*.json.")
    if annotations and not any(annotation.get("segmentation") for annotation in annotations):
        raise UserError(
            f"'{file}' has boxes but no masks, and Mask R-CNN learns masks: add a 'segmentation' to its annotations."
        )


def read_categories(document: dict[str, Any], file: Path) -> Categories:
    """Return the categories of an annotation file in the order of their ids.

    Args:
        document: content of the file.
        file: the file.

    Raises:
        UserError: there are none, or one lacks an id or a name of its own.
    """
    categories: dict[int, str] = {}
    for category in document["categories"]:
        entry = category if isinstance(category, dict) else {}
        category_id, name = to_whole(entry.get("id")), entry.get("name")
        if category_id is None or not isinstance(name, str):
            raise UserError(
                f"The category {shorten(category)} of '{file}' needs an 'id', a whole number, and a 'name': correct it."
            )
        if category_id in categories or name in categories.values():
            raise UserError(f"'{file}' has two categories with the id {category_id} or the name {shorten(name)}.")
        categories[category_id] = name
    if not categories:
        raise UserError(f"'{file}' has no categories.")
    ids = sorted(categories)
    return Categories([categories[category_id] for category_id in ids], ids)


def read_images(
    document: dict[str, Any], folder: Path, categories: Categories
) -> tuple[list[AnnotatedImage | None], Rejections]:
    """Return the images of an annotation file in the order of their ids, and what can't be used.

    None stands for an unusable image: places in the list, and with them a random split, depend on the ids alone.

    An unusable annotation leaves its image out: the image would teach that its object is background. Only an annotation
    without extent, one of an unknown image, and one that equals another one are left out alone.

    Args:
        document: content of the file.
        folder: folder of the images.
        categories: the classes; their order gives the labels.

    Raises:
        UserError: the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"There is no image folder '{folder}': data.root must name a folder in COCO's layout.")
    rejections = Rejections()
    images, listed_ids = list_images(document["images"], FileFinder(folder), rejections)
    labels = {category_id: label for label, category_id in enumerate(categories.ids, 1)}
    annotation_ids: set[int] = set()
    for position, entry in enumerate(document["annotations"]):
        annotation = entry if isinstance(entry, dict) else {}
        image_id, annotation_id = to_whole(annotation.get("image_id")), to_whole(annotation.get("id"))
        image = None if image_id is None else images.get(image_id)
        name = f"Annotation {annotation_id}" if annotation_id is not None else f"The annotation at position {position}"
        if image is None:
            if image_id not in listed_ids:  # else the image is left out, with a reason of its own
                given = shorten(annotation.get("image_id"))
                rejections.annotations.append(f"{name} can't be used: there is no image with its image_id {given}.")
            continue
        reason = find_annotation_error(annotation, image.size, labels)
        if reason and has_extent(annotation):
            rejections.incomplete.add(image.id)
            rejections.annotations.append(f"{name} can't be used, and its image {image.id} is left out: {reason}.")
        elif reason:
            rejections.annotations.append(f"{name} of image {image.id} can't be used: {reason}.")
        else:
            item = make_object(annotation, labels)
            if item.id in annotation_ids:
                if any(item[:3] == other[:3] for other in image.objects):
                    rejections.annotations.append(f"{name} of image {image.id} is listed twice.")
                    continue
                rejections.shared_ids.add(item.id)
            annotation_ids.add(item.id)
            image.objects.append(item)
    for image_id in rejections.incomplete:
        del images[image_id]
    return [images.get(image_id) for image_id in sorted(listed_ids)], rejections


def make_object(annotation: dict[str, Any], labels: dict[int, int]) -> ObjectAnnotation:
    """Return the object of an annotation without errors."""
    x, y, width, height = annotation["bbox"]
    return ObjectAnnotation(
        int(annotation["id"]),
        labels[annotation["category_id"]],
        (x, y, width, height),
        annotation["area"],
        bool(annotation.get("iscrowd", 0)),
        annotation["segmentation"],
    )


def list_images(
    entries: list[Any], files: FileFinder, rejections: Rejections
) -> tuple[dict[int, AnnotatedImage], set[int]]:
    """Return the usable images by id, and the ids of all images.

    Several images with the same id or file can't be used, as it's unknown which annotations belong to which; of equal
    entries, the first one counts.

    Args:
        entries: the images of an annotation file.
        files: the image files.
        rejections: list of the unusable images, appended to.
    """
    ids: Counter[int] = Counter()
    distinct: dict[tuple[int, Path, tuple[int, int]], AnnotatedImage] = {}
    for position, entry in enumerate(entries):
        image_id = to_whole(entry.get("id")) if isinstance(entry, dict) else None
        name = f"Image {image_id}" if image_id is not None else f"The image at position {position}"
        reason = find_image_error(entry, files)
        if reason is None:
            file = files.find(entry["file_name"])
            assert image_id is not None
            assert file is not None
            image = AnnotatedImage(image_id, file, (int(entry["height"]), int(entry["width"])), [])
            if image[:3] in distinct:
                rejections.images.append(f"{name} is listed twice.")
                continue
            distinct[image[:3]] = image
        else:
            rejections.images.append(f"{name} can't be used: {reason}.")
        if image_id is not None:
            ids[image_id] += 1
    names = Counter(file for _, file, _ in distinct)
    images = {}
    for image in distinct.values():
        name = f"Image {image.id}, {shorten(str(image.file))},"
        if ids[image.id] > 1:
            rejections.images.append(f"{name} can't be used: another image has the same id.")
        elif names[image.file] > 1:
            rejections.images.append(f"{name} can't be used: another image has the same file.")
        else:
            images[image.id] = image
    return images, set(ids)
