"""COCO and other data sets in its format."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F

from lambdanets.data.annotations import (
    AnnotatedImage,
    Rejections,
    SerializedImages,
    garbage_collection_paused,
    read_categories,
    read_images,
    read_json,
)
from lambdanets.data.corrupt import CorruptImages
from lambdanets.data.files import ImageFiles, Photo
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.jitter import Jitter
from lambdanets.data.masks import decode, import_mask_api, to_rle
from lambdanets.data.module import ImageData
from lambdanets.data.split import split_indices
from lambdanets.errors import UserError

log = logging.getLogger(__name__)
Item = tuple[Tensor, dict[str, Any]]
Batch = tuple[list[Tensor], list[dict[str, Any]]]


class Coco(ImageData):
    """COCO 2017's layout: `root/train2017/*.jpg`, `root/val2017/*.jpg`, `root/annotations/instances_*2017.json`.

    As with ImageNet, the published validation images are the test split, and models are selected on images held out of
    the training split. Masks may be polygons or run-length encodings, category ids may have gaps, and images may have
    no objects.

    Batches are (images, targets), both lists. Images are (3, h, w) float32, normalized, with both sides at most
    image_size. In training, a target has boxes (N, 4) as x, y, x, y in pixels, labels (N,) from 1 on, and masks
    (N, h, w) uint8, without crowds; the images of a batch are either all taller than wide or none of them is, which
    saves padding. In evaluation, a target has the image's id and its original size (H, W), and of each annotation,
    crowds included, the box (x, y, width, height), label, area, iscrowd and mask in the original image.

    Args:
        root: the folder.
        image_size: side of the square that images are resized to fit into.
        train: name of the training split.
        val: name of the published validation split, used as the test split.
        val_size: size of the validation split, as a fraction of the training images (below 1) or as a number of images.
            With 0, models are selected on the test split, which makes the test score optimistic.
        limit: use only this many images of each split.
        scale_jitter: smallest and largest scale of training images; at scale 1 they just fit into the square.
        flip: probability of a horizontal flip.
        max_corrupt: fraction of a split's images, and of its annotations, that may be unusable: a missing or damaged
            image, an empty box, an unknown category, an invalid mask. They are skipped, the latter with their images,
            and listed in the run's corrupt.txt. With 0, the first one ends the run.
        **options: options of `ImageData`.
    """

    TASK = "detection"
    USUAL_CLASSES = 80

    def __init__(
        self,
        *,
        root: str,
        image_size: int = 1024,
        train: str = "train2017",
        val: str = "val2017",
        val_size: float | int = 0.02,
        limit: int | None = None,
        scale_jitter: Sequence[float] = (0.1, 2.0),
        flip: float = 0.5,
        max_corrupt: float = 0.01,
        **options: Any,
    ) -> None:
        size = (image_size, image_size)
        super().__init__(
            channels=3, image_size=size, mean=ImageFolder.MEAN, std=ImageFolder.STD, max_corrupt=max_corrupt, **options
        )
        self.root = Path(root)
        self.splits = {"train": train, "val": val}
        self.val_size = val_size
        self.limit = limit
        self.jitter = Jitter(image_size, scale=scale_jitter, flip=flip)
        self.category_ids: list[int] = []

    def annotation_file(self, split: str) -> Path:
        return self.root / "annotations" / f"instances_{self.splits[split]}.json"

    def count_classes(self) -> int:
        file = self.annotation_file("val")
        return len(self.classes) or (len(read_categories(read_json(file), file).names) if file.is_file() else 0)

    def describe_labels(self) -> dict[str, Any]:
        return {"classes": self.classes, "category_ids": self.category_ids}

    def setup(self, stage: str) -> None:
        with garbage_collection_paused():
            super().setup(stage)

    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        images = self.read_split("train")
        if not self.val_size:
            return self.training_set(images), self.evaluation_set(self.read_split("val"))
        train, val = (indices.tolist() for indices in split_indices(len(images), self.val_size, self.split_seed))
        return self.training_set([images[i] for i in train]), self.evaluation_set([images[i] for i in val])

    def check_test_split(self) -> None:
        self.setup("test")  # its images stay in their files

    def load_test_split(self) -> Dataset[Any]:
        if not self.val_size and self.val_set is not None:  # the same images, whose annotations take long to read
            return self.val_set
        return self.evaluation_set(self.read_split("val"))

    def training_set(self, images: Sequence[AnnotatedImage | None]) -> Dataset[Any]:
        usable = [image for image in images if image is not None]
        if not has_objects(usable):
            raise UserError(f"The {len(usable)} training images have no objects, so that there is nothing to learn.")
        return AnnotatedFiles(usable, self.training_item, self.corrupt)

    def evaluation_set(self, images: Sequence[AnnotatedImage | None]) -> Dataset[Any]:
        usable = [image for image in images if image is not None]
        if not usable:
            raise UserError(f"None of the {len(images)} images for evaluation can be used: correct the annotations.")
        if not has_objects(usable):
            log.warning("The %d images for evaluation have no objects: their scores will be -1.", len(usable))
        return AnnotatedFiles(usable, self.evaluation_item, self.corrupt)

    def read_split(self, split: str) -> list[AnnotatedImage | None]:
        """Return the images and annotations of a split, with None for an unusable image.

        Raises:
            UserError: files are missing, the classes differ from the known ones, or too much is unusable.
        """
        import_mask_api()
        file = self.annotation_file(split)
        document = read_json(file)
        categories = read_categories(document, file)
        if self.classes and self.classes != categories.names:
            unknown = [name for name in categories.names if name not in self.classes] or categories.names
            raise UserError(
                f"The categories of '{file}', such as '{unknown[0]}', differ from the {len(self.classes)} classes of "
                "the run: use the annotations of the data set that the run was trained on."
            )
        self.classes, self.category_ids = categories
        images, rejections = read_images(document, self.root / self.splits[split], categories)
        self.check_rejections(file, rejections, len(document["images"]), len(document["annotations"]))
        if not any(images):
            raise UserError(f"'{file}' has no usable images.")
        return images[: self.limit]

    def check_rejections(self, file: Path, rejections: Rejections, num_images: int, num_annotations: int) -> None:
        """Warn of unusable images and annotations, and add them to the list of corrupt images.

        Args:
            file: the annotation file.
            rejections: its unusable entries.
            num_images: number of all images.
            num_annotations: number of all annotations.

        Raises:
            UserError: there are more than max_corrupt allows.
        """
        left_out = len(rejections.images) + len(rejections.incomplete)
        for noun, count, total, reasons in (
            ("images", left_out, num_images, rejections.images or rejections.annotations),
            ("annotations", len(rejections.annotations), num_annotations, rejections.annotations),
        ):
            if count > self.corrupt.max_fraction * total:
                raise UserError(
                    f"{count} of the {total} {noun} of '{file}' can't be used, more than "
                    f"data.max_corrupt={self.corrupt.max_fraction} allows. The first reason: {reasons[0]} Correct the "
                    "file, or raise data.max_corrupt."
                )
        reasons = [*rejections.images, *rejections.annotations]
        if reasons:
            self.corrupt.write(f"{file.name}: {reason}" for reason in reasons)
            listed = f"; '{self.corrupt.file}' lists all" if self.corrupt.file is not None else ""
            log.warning(
                "'%s': %d of %d images are left out, and %d of %d annotations can't be used%s. The first reason: %s",
                *(file, left_out, num_images, len(rejections.annotations), num_annotations, listed, reasons[0]),
            )
        if rejections.shared_ids:
            log.warning(
                "'%s': %d annotation ids, such as %d, are those of several objects. All of them are used.",
                *(file, len(rejections.shared_ids), min(rejections.shared_ids)),
            )

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize an image so that its longer side is image_size: (3, H, W) → (3, h, w)."""
        height, width = image.shape[1:]
        scale = self.image_size[0] / max(height, width)
        return F.resize(image, [max(1, round(scale * side)) for side in (height, width)], antialias=True)

    def training_item(self, image: Tensor, annotated: AnnotatedImage) -> Item:
        """Return an augmented image, (3, h, w) uint8, and its target for training."""
        annotations = [annotation for annotation in annotated.objects if not annotation.crowd]
        boxes = torch.tensor([annotation.box for annotation in annotations], dtype=torch.float32).reshape(-1, 4)
        masks = decode([to_rle(annotation.segmentation, annotated.size) for annotation in annotations], annotated.size)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                box_convert(boxes, "xywh", "xyxy"), format="XYXY", canvas_size=annotated.size
            ),
            "masks": tv_tensors.Mask(masks),
            "labels": torch.tensor([annotation.label for annotation in annotations], dtype=torch.long),
        }
        return self.jitter(image, target)

    def evaluation_item(self, image: Tensor, annotated: AnnotatedImage) -> Item:
        """Return an image resized for evaluation, (3, h, w) uint8, and the annotations of the original one."""
        annotations = annotated.objects
        boxes = torch.tensor([annotation.box for annotation in annotations], dtype=torch.float64)
        return self.preprocess(image), {
            "image_id": annotated.id,
            "size": annotated.size,
            "boxes": boxes.reshape(-1, 4),
            "labels": torch.tensor([annotation.label for annotation in annotations], dtype=torch.long),
            "area": torch.tensor([annotation.area for annotation in annotations], dtype=torch.float64),
            "iscrowd": torch.tensor([annotation.crowd for annotation in annotations], dtype=torch.long),
            "masks": [to_rle(annotation.segmentation, annotated.size) for annotation in annotations],
        }

    def group_images(self, split: Any) -> list[int]:
        """Separate images that are taller than wide from the others."""
        return split.portrait

    def collate(self, items: list[Any]) -> Batch:
        """Return the images that could be decoded and their targets, both as lists."""
        decoded = [item for item in items if item is not None]
        return [image for image, _ in decoded], [target for _, target in decoded]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # type: ignore[override]
        images, targets = batch
        trainer: pl.Trainer | None = self.trainer
        images = [self.normalize(image) for image in images]
        if trainer is None:
            return images, targets
        if trainer.training:
            self.seed_step(trainer)
        return [trainer.precision_plugin.convert_input(image) for image in images], targets


def has_objects(images: list[AnnotatedImage]) -> bool:
    """Return whether there is an object that is not a crowd."""
    return any(not annotation.crowd for image in images for annotation in image.objects)


class AnnotatedFiles(ImageFiles):
    """Annotated images that are decoded at each access.

    Args:
        images: the images with their objects.
        build_item: function of a decoded image and its annotations that returns an item.
        corrupt: as in `ImageFiles`.
    """

    def __init__(
        self,
        images: list[AnnotatedImage],
        build_item: Callable[[Tensor, AnnotatedImage], Item],
        corrupt: CorruptImages,
    ) -> None:
        super().__init__([(str(image.file), 0) for image in images], Photo.decode, corrupt)
        self.build_item = build_item
        self.portrait = [int(image.size[0] > image.size[1]) for image in images]
        self.images = SerializedImages(images)

    def make_item(self, index: int, photo: Photo) -> Item:
        """Return the image and its target.

        The size in the annotation file decides if the annotations are those of the upright photo or of its pixels as
        they are stored, before they are turned by their EXIF orientation. Where it fits both, the photo is upright.

        Raises:
            UserError: the size of the image differs from the size in the annotation file.
        """
        annotated = self.images[index]
        if photo.size != annotated.size and photo.orientation >= 5 and photo.size[::-1] == annotated.size:
            photo.orientation = 1
        elif photo.size != annotated.size:
            raise UserError(
                f"Image {annotated.id}, '{annotated.file}', has {photo.size[0]}×{photo.size[1]} pixels, but its "
                f"annotations give {annotated.size[0]}×{annotated.size[1]}: correct them, or download the image again."
            )
        return self.build_item(self.transform(photo), annotated)
