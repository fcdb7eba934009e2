"""COCO and other sets in its format."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from lambdanets.data.annotations import Categories, Scene, Scenes, read_categories, read_json, read_scenes
from lambdanets.data.corrupt import Corrupt
from lambdanets.data.files import ImageFiles, Photo
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.jitter import Jitter
from lambdanets.data.masks import decode, import_mask_api, to_rle
from lambdanets.data.module import ImageData
from lambdanets.data.split import seeded_split
from lambdanets.errors import UserError

log = logging.getLogger(__name__)
Batch = tuple[list[Tensor], list[dict[str, Any]]]


class Coco(ImageData):
    """COCO 2017's layout: `root/train2017/*.jpg`, `root/val2017/*.jpg`, `root/annotations/instances_*2017.json`.

    As with ImageNet, the published validation images are the test split, and models are selected on images held out of
    the training split. Masks are polygons or run-length encodings, category ids may have gaps, images may be without
    objects.

    Batches are (images, targets), lists: images (3, h, w) float32 normalized, none of whose sides is longer than
    image_size. In training, a target has boxes (N, 4) as x, y, x, y in pixels, labels (N,) from 1 on, and masks
    (N, h, w) uint8, without crowds; the images of a batch are all upright or all not, so that padding them to one size
    costs little. In evaluation, it has the image's id and its size (H, W) in the file, and of each annotation, crowds
    included, box (x, y, width, height), label, area, iscrowd and mask, of the image as it is in the file.

    Args:
        root: the folder.
        image_size: side of the square that images are fitted into.
        train: name of the training split.
        val: name of the validation split, here the test split.
        val_size: share of the training images, or their number, to select models on; 0 selects on the test split,
            whose score then is a selected one.
        limit: take the first so many images of each split only.
        scale_jitter: least and largest scale of training images; 1 fits them into the square.
        flip: probability of a horizontal flip.
        max_corrupt: share of a split's images, and of its annotations, that may be unusable (an image that is missing
            or can't be decoded, an empty box, an unknown category, a broken mask): they are left out, counted, and
            named in the run's corrupt.txt. With 0, the first one ends the run.
        **options: as `ImageData`.
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
        return len(self.classes) or (len(read_categories(read_json(file)).names) if file.is_file() else 0)

    def describe_labels(self) -> dict[str, Any]:
        return {"classes": self.classes, "category_ids": self.category_ids}

    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        scenes = self.read("train")
        if not self.val_size:
            return self.training(scenes), self.evaluation(self.read("val"))
        kept, held_out = (indices.tolist() for indices in seeded_split(len(scenes), self.val_size, self.split_seed))
        return self.training([scenes[i] for i in kept]), self.evaluation([scenes[i] for i in held_out])

    def load_test_split(self) -> Dataset[Any]:
        return self.evaluation(self.read("val"))

    def training(self, scenes: list[Scene]) -> Dataset[Any]:
        return SceneFiles(scenes, self.learnt, self.corrupt)

    def evaluation(self, scenes: list[Scene]) -> Dataset[Any]:
        return SceneFiles(scenes, self.asked, self.corrupt)

    def read(self, split: str) -> list[Scene]:
        """A split's images and annotations, without what can't be used.

        Raises:
            UserError: files are missing, classes differ from those known, or more can't be used than may be.
        """
        import_mask_api()
        document = read_json(self.annotation_file(split))
        found = read_categories(document)
        if self.classes and self.classes != found.names:
            strange = [name for name in found.names if name not in self.classes] or found.names
            raise UserError(
                f"'{self.annotation_file(split)}' has other categories than the {len(self.classes)} known ones, such "
                f"as '{strange[0]}': use the annotations of the set that the run was trained on."
            )
        self.classes, self.category_ids = found
        rejected: dict[str, str] = {}

        def reject(name: str, sentence: str) -> None:
            if self.corrupt.share <= 0:
                raise UserError(f"{sentence} Or leave it out with data.max_corrupt=0.01.")
            rejected[name] = sentence

        scenes = read_scenes(document, self.root / self.splits[split], Categories(*found), reject)
        self.tell(split, rejected, len(document["images"]), len(document["annotations"]))
        if not scenes:
            raise UserError(f"'{self.annotation_file(split)}' has no image that can be used.")
        return scenes[: self.limit]

    def tell(self, split: str, rejected: dict[str, str], images: int, annotations: int) -> None:
        """Counts what is left out, and names it.

        Raises:
            UserError: it is more than may be.
        """
        if not rejected:
            return
        first = next(iter(rejected.values()))
        for kind, total in (("image", images), ("annotation", annotations)):
            count = sum(name.startswith(kind) for name in rejected)
            if count > self.corrupt.share * total:
                raise UserError(
                    f"{count} of the {total} {kind}s of {self.splits[split]} can't be used, more than "
                    f"data.max_corrupt={self.corrupt.share} allows: {first}"
                )
        self.corrupt.write(rejected)
        log.info("%d images or annotations of %s are left out: %s", len(rejected), self.splits[split], first)

    def preprocess(self, image: Tensor) -> Tensor:
        """Fits an image into the square of image_size: (3, H, W) → (3, h, w)."""
        height, width = image.shape[1:]
        scale = self.image_size[0] / max(height, width)
        return F.resize(image, [max(1, round(scale * side)) for side in (height, width)], antialias=True)

    def learnt(self, image: Tensor, scene: Scene) -> tuple[Tensor, dict[str, Any]]:
        """What training sees of a scene."""
        objects = [thing for thing in scene.objects if not thing.crowd]
        boxes = corners(torch.tensor([thing.box for thing in objects], dtype=torch.float32).reshape(-1, 4))
        masks = decode([to_rle(thing.segmentation, scene.size) for thing in objects], scene.size)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=scene.size),
            "masks": tv_tensors.Mask(masks),
            "labels": torch.tensor([thing.label for thing in objects], dtype=torch.long),
        }
        return self.jitter(image, target)

    def asked(self, image: Tensor, scene: Scene) -> tuple[Tensor, dict[str, Any]]:
        """What evaluation sees of a scene."""
        return self.preprocess(image), {
            "image_id": scene.id,
            "size": scene.size,
            "boxes": torch.tensor([thing.box for thing in scene.objects], dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor([thing.label for thing in scene.objects], dtype=torch.long),
            "area": torch.tensor([thing.area for thing in scene.objects], dtype=torch.float64),
            "iscrowd": torch.tensor([thing.crowd for thing in scene.objects], dtype=torch.long),
            "masks": [to_rle(thing.segmentation, scene.size) for thing in scene.objects],
        }

    def groups(self, split: Any) -> list[int]:
        """Upright images and others are not put into one batch of training."""
        return split.upright

    def collate(self, items: list[Any]) -> Batch:
        """Lists of the images that could be decoded, and of their targets."""
        found = [item for item in items if item is not None]
        return [image for image, _ in found], [target for _, target in found]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # type: ignore[override]
        images, targets = batch
        trainer: pl.Trainer | None = self.trainer
        images = [self.normalize(image) for image in images]
        if trainer is None:
            return images, targets
        if trainer.training:
            self.seed_step(trainer)
        return [trainer.precision_plugin.convert_input(image) for image in images], targets


class SceneFiles(ImageFiles):
    """The images of scenes, decoded at each access, with what there is to learn, or to be asked, of them.

    Args:
        scenes: images with their objects.
        view: from a decoded image and its scene to an item.
        corrupt: as `ImageFiles`.
    """

    def __init__(self, scenes: list[Scene], view: Any, corrupt: Corrupt) -> None:
        super().__init__([(str(scene.file), 0) for scene in scenes], view, corrupt)
        self.upright = [int(scene.size[0] > scene.size[1]) for scene in scenes]
        self.scenes = Scenes(scenes)

    def example(self, index: int, photo: Photo) -> Any:
        """Raises UserError: the file's image has another size than its annotations say."""
        scene = self.scenes[index]
        if photo.size != scene.size:
            raise UserError(
                f"Image {scene.id}, '{scene.file}', is of {photo.size[0]}×{photo.size[1]} pixels and annotated as one "
                f"of {scene.size[0]}×{scene.size[1]}: fetch it again."
            )
        return self.transform(photo.decode(), scene)  # type: ignore[call-arg, arg-type]


def corners(boxes: Tensor) -> Tensor:
    """x, y, width, height → x, y, x, y."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
