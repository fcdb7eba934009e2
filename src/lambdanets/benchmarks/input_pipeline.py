"""benchmark=input: throughput of the input pipeline, and whether it or the model limits a training."""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import make_dataset
from torchvision.io import write_jpeg

from lambdanets.benchmarks.experiment_networks import NetworkSpec
from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.data.augmentation import Augmentation
from lambdanets.data.files import ImageFiles, collate
from lambdanets.data.image_names import EXTENSIONS
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
IMAGE_FOLDER = "ImageFolder, transforms per image"
FILES, PACKED = "data=imagefolder", "data=packed"
BATCHES_PER_WORKER, PREFETCH = 12, 4
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
    """Measure how fast one core reads and augments a folder of images, in three ways, and a loader with its workers.

    Args:
        setting: the conditions of the measurement; one thread, since loader workers have one.
        root: folder with class folders below it or below train/.
        shards: output folder of the packed images.
        image_size: side of the crops.
        batch: images.
        workers: number of loader workers; at most one per core is started.
        networks: networks whose training may wait for images.

    Returns:
        One row per augmentation and pipeline; ratios are to torchvision's ImageFolder.

    Raises:
        UserError: there are no images.
    """
    folder = Path(root, "train") if Path(root, "train").is_dir() else Path(root)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    labels = {name: label for label, name in enumerate(names)}
    samples = make_dataset(str(folder), labels, extensions=EXTENSIONS, allow_empty=True) if names else []
    if not samples:
        raise UserError(
            f"benchmark.root={root} has no class folders with images: set it to a folder such as ImageNet's."
        )
    Path(shards).mkdir(parents=True, exist_ok=True)
    write_shards(Path(shards), "train", samples, shard_bytes=2**28)
    members = read_index(Path(shards), "train")

    columns = ["augmentation", "input", "worker img/s", "ratio", "device img/s", "one core img/s", "one core ratio"]
    columns += ["loader img/s"]
    started_workers = min(workers, os.cpu_count() or 1)
    result = Result(f"Input: {len(samples)} images to {image_size}²", columns, setting=setting)
    worker_rates = {}
    with setting.apply():
        for augmentation, options in progress_bar(AUGMENTATIONS.items(), "augmentations"):
            augment = Augmentation(**options)
            crop = augment.make_crop((image_size, image_size))
            pipelines = {
                IMAGE_FOLDER: Pipeline(ImageFolder(str(folder), torchvision_transforms(image_size, augment)), batch),
                FILES: Pipeline(ImageFiles(samples, crop), batch, collate, augment),
                PACKED: Pipeline(PackedFiles(Path(shards), members, crop), batch, collate, augment),
            }
            worker_seconds = setting.measure_times({name: p.run_worker for name, p in pipelines.items()})
            device_seconds = setting.measure_times(
                {name: partial(p.run_device, setting.torch_device) for name, p in pipelines.items() if p.augment}
            )
            baseline = len(samples) / worker_seconds[IMAGE_FOLDER]
            for name, pipeline in pipelines.items():
                worker = len(samples) / worker_seconds[name]
                device = len(pipeline.first_batch[1]) / device_seconds[name] if name in device_seconds else None
                one_core = 1 / (1 / worker + (1 / device if device else 0.0))
                worker_rates[augmentation, name] = worker
                result.rows.append(
                    {
                        "augmentation": augmentation,
                        "input": name,
                        "worker img/s": worker,
                        "ratio": worker / baseline,
                        "device img/s": device,
                        "one core img/s": one_core,
                        "one core ratio": one_core / baseline,
                        "loader img/s": pipeline.measure_loader(started_workers) if pipeline.augment else None,
                    }
                )
        result.notes.append(
            "Worker: images/s of one loader worker, decoding and cropping included, and their ratio to ImageFolder's. "
            "Device: images/s of the work that is left for the training device: flips, RandAugment, normalization and "
            "erasing of whole batches. One core: both one after the other, as in a training on a CPU. Loader: images/s "
            f"of {started_workers} workers that read at the same time, on {os.cpu_count()} cores."
        )
        slowest = min(rate for (_, name), rate in worker_rates.items() if name == FILES)
        for name, network in (networks or {}).items():
            x = torch.randn(batch, 3, image_size, image_size, device=setting.torch_device)
            step = setting.make_training_step(network.make().to(setting.torch_device), x)
            rate = batch / setting.measure_times({name: step})[name]
            limit = "the model" if rate < slowest * workers else "the input"
            result.notes.append(
                f"{name} trains {rate:,.3g} images/s with threads={setting.threads}, {workers} workers with {FILES} "
                f"read {slowest * workers:,.3g}: {limit} is the limit; "
                f"it takes {rate / slowest:.2g} of such workers to keep the model busy."
            )
    return result


class Pipeline:
    """Path from files to batches.

    Args:
        dataset: data set of single images.
        batch: images per batch.
        collate: function that joins items to a batch.
        augment: augmentation of whole batches on the training device; None if the data set does all of it.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch: int,
        collate: Callable[[list[Any]], Any] = default_collate,
        augment: Augmentation | None = None,
    ) -> None:
        self.dataset, self.collate, self.augment = dataset, collate, augment
        size = len(dataset)  # type: ignore[arg-type]
        self.batches = [range(start, min(start + batch, size)) for start in range(0, size, batch)]
        self.first_batch: Any = None

    def run_worker(self) -> None:
        """Do the work of a loader worker for the whole data set."""
        for indices in self.batches:
            # Our data sets take an index and a seed for training items.
            items = [self.dataset[i] if self.augment is None else self.dataset[i, i] for i in indices]
            batch = self.collate(items)
            self.first_batch = self.first_batch or batch

    def measure_loader(self, workers: int) -> float:
        """Return the images per second of a loader, after its workers have started."""
        repeats = -(-BATCHES_PER_WORKER * workers // len(self.batches))
        loader = DataLoader(
            self.dataset,
            batch_sampler=[[(i, i) for i in batch] for batch in self.batches] * repeats,
            num_workers=workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=PREFETCH,
        )
        batches = iter(loader)
        for _ in range(PREFETCH * workers):  # those that were loaded ahead while the workers started
            next(batches)
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in batches)
        return images / (time.perf_counter() - start)

    def run_device(self, device: torch.device) -> None:
        """Do the work of the training device for one batch."""
        assert self.augment is not None
        images, labels = (tensor.to(device) for tensor in self.first_batch)
        images = self.augment.augment_pixels(images, cropped=True)
        images = transforms.v2.functional.normalize(
            transforms.v2.functional.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD), inplace=True
        )
        self.augment.augment_normalized(images, labels, num_classes=1000)


def torchvision_transforms(image_size: int, augment: Augmentation) -> Callable[[Any], Any]:
    """Return the same augmentation for single images, as in torchvision's reference recipes."""
    steps: list[Any] = [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip()]
    if augment.rand_augment:
        steps.append(transforms.RandAugment(**augment.rand_augment))
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if augment.erasing:
        steps.append(transforms.RandomErasing(augment.erasing))
    return transforms.Compose(steps)


def write_photographs(root: Path, count: int) -> Path:
    """Write smooth random images of a photograph's usual size, 500×375, as JPEG files in two class folders.

    Args:
        root: folder of the class folders; one that exists stays as it is.
        count: number of images.

    Returns:
        The folder.
    """
    for index in range(0 if root.is_dir() else count):
        generator = torch.Generator().manual_seed(index)
        # Noise at several scales compresses about as well as a photograph.
        pixels = torch.zeros(3, 375, 500)
        for scale in (1, 4, 16, 64):
            noise = torch.rand(3, 375 // scale + 1, 500 // scale + 1, generator=generator)
            pixels += transforms.v2.functional.resize(noise, [375, 500], antialias=True) * scale**0.5
        image = (255 * pixels / pixels.max()).to(torch.uint8)
        folder = root / f"class-{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        write_jpeg(image, str(folder / f"{index}.jpg"), quality=90)
    return root
