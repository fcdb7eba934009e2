"""job=pack: write an image folder as shards."""

import json
import logging
import os
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.progress import track

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_data
from lambdanets.data.files import Sample
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.packed import Packed
from lambdanets.data.shards import CLASSES_FILE, MANIFEST_FILE, check_output, write_shards
from lambdanets.errors import UserError
from lambdanets.runs.folders import write_metrics

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Pack each split of an image folder into tar files in config.job.output_dir.

    The files' bytes are not changed. `data=packed data.root=<output_dir>` reads the shards, and so does WebDataset.

    Args:
        config: the resolved config.
        folder: folder for metrics.json.

    Returns:
        The numbers of images and of shards.

    Raises:
        UserError: the data are not an image folder, or can't be read, or the output folder holds other files.
    """
    data = build_data(config)
    if not isinstance(data, ImageFolder) or isinstance(data, Packed):
        raise UserError("job=pack needs a folder of images: set data=imagefolder or data=imagenet, and data.root.")
    output_dir = Path(config.job.output_dir or f"{data.root}-packed")
    check_output(output_dir)
    data.read_classes()
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in (CLASSES_FILE, MANIFEST_FILE):
        (output_dir / name).unlink(missing_ok=True)  # written at the end: without classes, shards can't be read
    manifest: dict[str, dict[str, int]] = {}
    # Shards are named by the use of a split: ImageNet's val/ becomes test.
    for name, source in (("train", data.TRAIN), ("val", data.VAL), ("test", data.TEST)):
        if source is None or not data.has_split(source):
            write_shards(output_dir, name, [], shard_bytes=1)  # removes those of an earlier packing
            continue
        # Shuffled, since WebDataset reads a shard in its order and would get one class after the other.
        samples = shuffle(data.list_samples(source))
        progress = track(samples, description=f"{name}: {len(samples)} images", disable=not os.isatty(2))
        num_shards = write_shards(output_dir, name, progress, shard_bytes=int(config.job.shard_mib * 2**20))
        manifest[name] = {"images": len(samples), "shards": num_shards}
    atomic_write(output_dir / MANIFEST_FILE, json.dumps(manifest) + "\n")
    atomic_write(output_dir / CLASSES_FILE, json.dumps(data.classes) + "\n")
    totals = {key: sum(counts[key] for counts in manifest.values()) for key in ("images", "shards")}
    write_metrics(folder, totals)
    log.info("%d images in %d shards: data=packed data.root=%s", totals["images"], totals["shards"], output_dir)
    return {key: float(value) for key, value in totals.items()}


def shuffle(samples: list[Sample]) -> list[Sample]:
    """Return the samples in a random order, the same at each call."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return [samples[i] for i in order.tolist()]
