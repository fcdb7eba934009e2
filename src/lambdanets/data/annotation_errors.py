"""Errors in the entries of COCO's annotation files."""

import os
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lambdanets.data.masks import NUMBERS, find_segmentation_error

# A box may stick out of its image by a pixel or by this fraction of the side: annotators round.
ROUNDING = 0.01
# Masks count their pixels in 31 bits.
MAX_PIXELS = 2**31 - 1
# No area in pixels is larger.
MAX_AREA = 1e12
SHORT = reprlib.Repr()
SHORT.maxstring = 200


class FileFinder:
    """The files of a folder by their names in an annotation file; each subfolder is listed once.

    Args:
        folder: folder of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listings: dict[str, set[str]] = {}

    def find(self, name: str) -> Path | None:
        """Return the path of a file, or None if it isn't there.

        Args:
            name: relative to the folder, with slashes; backslashes of Windows are understood.
        """
        for spelling in (name, name.replace("\\", "/")):
            parts = PurePosixPath(spelling).parts if "/" in spelling else (spelling,)
            if ".." not in parts and parts[0] != "/" and parts[-1] in self.list_folder("/".join(parts[:-1])):
                return self.folder.joinpath(*parts)
        return None

    def list_folder(self, name: str) -> set[str]:
        """Return the names in a subfolder."""
        if name not in self.listings:
            try:
                self.listings[name] = set(os.listdir(self.folder / name))
            except (OSError, ValueError):
                self.listings[name] = set()
        return self.listings[name]


def find_image_error(entry: Any, files: FileFinder) -> str | None:
    """Return what is wrong with an image of an annotation file, or None."""
    if not isinstance(entry, dict):
        return f"its entry is {shorten(entry)}"
    missing = [key for key in ("id", "file_name", "height", "width") if entry.get(key) is None]
    if missing:
        return f"it has no {', '.join(missing)}"
    if to_whole(entry["id"]) is None:
        return f"its id {shorten(entry['id'])} is not a whole number"
    height, width = to_whole(entry["height"]), to_whole(entry["width"])
    if height is None or width is None or height < 1 or width < 1 or height * width > MAX_PIXELS:
        return f"its height {shorten(entry['height'])} and width {shorten(entry['width'])} are not those of an image"
    name = entry["file_name"]
    if not isinstance(name, str):
        return f"its file_name {shorten(name)} is not a text"
    if files.find(name) is None:
        path = PurePosixPath(name)
        if path.is_absolute() or PureWindowsPath(name).drive or ".." in (*path.parts, *PureWindowsPath(name).parts):
            return f"its file_name {shorten(name)} must be relative to '{files.folder}'"
        return f"there is no file {shorten(name)} in '{files.folder}'"
    return None


def find_annotation_error(
    annotation: Mapping[str, Any], size: tuple[int, int], labels: Mapping[int, int]
) -> str | None:
    """Return what is wrong with an annotation, or None.

    Args:
        annotation: the entry of the annotation file.
        size: (H, W) of its image.
        labels: labels of the classes by category id.
    """
    missing = [key for key in ("id", "category_id", "bbox", "area", "segmentation") if annotation.get(key) is None]
    if missing:
        return f"it has no {', '.join(missing)}"
    if to_whole(annotation["id"]) is None:
        return f"its id {shorten(annotation['id'])} is not a whole number"
    if to_whole(annotation["category_id"]) not in labels:
        return f"there is no category {shorten(annotation['category_id'])}"
    box, area, crowd = annotation["bbox"], annotation["area"], annotation.get("iscrowd", 0)
    reason = find_box_error(box, size)
    if reason:
        return f"its box {shorten(box)} {reason}"
    if not is_number(area, 0, MAX_AREA):
        return f"its area {shorten(area)} is not a number of pixels"
    if crowd not in (0, 1):
        return f"its iscrowd {shorten(crowd)} is neither 0 nor 1"
    return find_segmentation_error(annotation["segmentation"], size, box)


def find_box_error(box: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a box, x, y, width, height, in an image of that size (H, W), or None."""
    height, width = size
    if not is_box(box):
        return "is not four numbers: x, y, width, height"
    x, y, box_width, box_height = box
    if box_width < 0 or box_height < 0:
        return "has a negative width or height"
    if box_width == 0 or box_height == 0:
        return "is empty"
    across, down = max(1.0, ROUNDING * width), max(1.0, ROUNDING * height)
    inside = -across <= x < width and -down <= y < height and x + box_width > 0 and y + box_height > 0
    if not inside or x + box_width > width + across or y + box_height > height + down:
        return f"is not inside its image of {width}×{height} pixels (x, y, width, height)"
    return None


def has_extent(annotation: Mapping[str, Any]) -> bool:
    """Return whether an annotation may stand for an object; without a width or height, and of area 0, it doesn't."""
    box: Any = annotation.get("bbox")
    return not (is_box(box) and 0 in box[2:] and annotation.get("area") == 0)


def is_box(value: Any) -> bool:
    """Return whether a value is a list of four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not {*map(type, value)} <= NUMBERS:
        return False
    x, y, width, height = value  # comparisons with NaN are false
    return abs(x) < MAX_AREA and abs(y) < MAX_AREA and abs(width) < MAX_AREA and abs(height) < MAX_AREA


def is_number(value: Any, low: float, high: float) -> bool:
    """Return whether a value is a number in a range; neither NaN, a text, nor true or false is."""
    return type(value) in NUMBERS and low <= value <= high


def to_whole(value: Any) -> int | None:
    """Return a whole number, also one that is written as 7.0, or None for any other value."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def shorten(value: Any) -> str:
    """Return a value as one short line."""
    return SHORT.repr(value)
