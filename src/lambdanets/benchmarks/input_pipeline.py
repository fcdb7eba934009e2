"""benchmark=input: how fast images come, and whether they or the model are the limit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import make_dataset

from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.data.augmentation import Augmentation
from lambdanets.data.files import EXTENSIONS, ImageFiles, collate
from lambdanets.data.packed import PackedFiles
from lambdanets.data.shards import read_index, write_shards
from lambdanets.errors import UserError
from lambdanets.progress import progress_bar

AUGMENTATIONS: Mapping[str, dict[str, Any]] = {
    "crop, flip": {"flip": True},
    "crop, flip, RandAugment 2×9, erasing 0.25": {
        "flip": True,
        "rand_augment": {"num_ops": 2, "magnitude": 9},
        "erasing": 0.25,
    },
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure_input_pipeline(
    setting: Setting,
    *,
    root: str,
    shards: str,
    image_size: int,
    batch: int,
    workers: int,
    networks: Mapping[str, NetworkSpec] | None = None,
) -> Result:
    """One core reads and augments a folder of images in three ways; ratios are to torchvision's ImageFolder.

    Args:
        setting: how to measure; one thread, since workers have one.
        root: the folder, with class folders below it or below train/.
        shards: a folder where the packed images go.
        image_size: side of the crops.
        batch: images.
        workers: processes that would read beside a training.
        networks: what they would train.

    Raises:
        UserError: there are no images.
    """
    folder = Path(root, "train") if Path(root, "train").is_dir() else Path(root)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    labels = {name: number for number, name in enumerate(names)}
    samples = make_dataset(str(folder), labels, extensions=EXTENSIONS, allow_empty=True) if names else []
    if not samples:
        raise UserError(f"benchmark.root={root} holds no folders of images; give a folder such as ImageNet's.")
    Path(shards).mkdir(parents=True, exist_ok=True)
    write_shards(Path(shards), "train", samples, shard_bytes=2**28)
    members = read_index(Path(shards), "train")

    columns = ["augmentation", "input", "worker img/s", "ratio", "device img/s", "one core img/s", "one core ratio"]
    result = Result(f"Input: {len(samples)} images to {image_size}²", columns, setting=setting)
    rates = {}
    with setting.limit_threads():
        for augmentation, options in progress_bar(AUGMENTATIONS.items(), "augmentations"):
            augment = Augmentation(**options)
            crop = augment.make_crop((image_size, image_size))
            ways: dict[str, tuple[Dataset[Any], Callable[[list[Any]], Any], Augmentation | None]] = {
                "ImageFolder, transforms an image": (
                    ImageFolder(str(folder), usual_transforms(image_size, augment)),
                    default_collate,
                    None,
                ),
                "data=imagefolder": (ImageFiles(samples, crop), collate, augment),
                "data=packed": (PackedFiles(Path(shards), members, crop), collate, augment),
            }
            reading = {name: Reading(way, batch, len(samples)) for name, way in ways.items()}
            taken = setting.measure_times({name: read.worker for name, read in reading.items()})
            device = setting.measure_times({name: read.device for name, read in reading.items() if read.augment})
            plain = len(samples) / next(iter(taken.values()))
            for name, read in reading.items():
                worker = read.images / taken[name]
                on_device = len(read.batch[1]) / device[name] if name in device else None
                together = 1 / (1 / worker + (1 / on_device if on_device else 0.0))
                rates[augmentation, name] = worker
                result.rows.append(
                    {
                        "augmentation": augmentation,
                        "input": name,
                        "worker img/s": worker,
                        "ratio": worker / plain,
                        "device img/s": on_device,
                        "one core img/s": together,
                        "one core ratio": together / plain,
                    }
                )
        result.notes.append(
            "Worker: what a loader's process does for an image, decoding and cropping included, and its ratio to "
            "ImageFolder's. Device: what is left for the device that trains, flips, RandAugment, normalization and "
            "erasing of whole batches; here a core too. One core: both after one another, as where one trains on it."
        )
        least = min(rate for (_, name), rate in rates.items() if name == "data=imagefolder")
        for name, network in (networks or {}).items():
            x = torch.randn(batch, 3, image_size, image_size, device=setting.torch_device)
            step = setting.make_training_step(network.make().to(setting.torch_device), x)
            rate = batch / setting.measure_times({name: step})[name]
            limit = "the model" if rate < least * workers else "the input"
            result.notes.append(
                f"{name} trains {rate:,.3g} images/s here at {setting.threads} thread, {workers} workers with "
                f"data=imagefolder read {least * workers:,.3g}: {limit} is the limit; "
                f"it takes {rate / least:.2g} of such workers to keep the model busy."
            )
    return result


class Reading:
    """One way to come by batches.

    Args:
        way: data set, how items become a batch, and what is left for the device.
        batch: images.
        size: images in the set.
    """

    def __init__(
        self, way: tuple[Dataset[Any], Callable[[list[Any]], Any], Augmentation | None], batch: int, size: int
    ) -> None:
        self.dataset, self.collate, self.augment = way
        self.indices = [range(start, min(start + batch, size)) for start in range(0, size, batch)]
        self.images = size
        self.batch: Any = None

    def worker(self) -> None:
        for indices in self.indices:
            items = [self.dataset[i] if self.augment is None else self.dataset[i, i] for i in indices]
            made = self.collate(items)
            self.batch = self.batch or made

    def device(self) -> None:
        assert self.augment is not None
        images, labels = self.batch
        images = self.augment.augment_pixels(images, cropped=True)
        images = transforms.v2.functional.normalize(
            transforms.v2.functional.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD), inplace=True
        )
        self.augment.augment_normalized(images, labels, classes=1000)


def usual_transforms(image_size: int, augment: Augmentation) -> Callable[[Any], Any]:
    """The same augmentation an image at a time, as torchvision's reference recipes have it."""
    steps: list[Any] = [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip()]
    if augment.rand_augment:
        steps.append(transforms.RandAugment(**augment.rand_augment))
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if augment.erasing:
        steps.append(transforms.RandomErasing(augment.erasing))
    return transforms.Compose(steps)
