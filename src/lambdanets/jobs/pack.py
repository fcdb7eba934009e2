"""job=pack: an image folder as shards."""

import json
import logging
import os
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.progress import track

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_data
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.shards import CLASSES, write_shards
from lambdanets.errors import UserError
from lambdanets.runs.folders import write_metrics

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Packs each split of the image folder that config.data names into tar files in config.job.output_dir.

    The images' bytes stay as they are; `data=packed data.root=<output_dir>` reads them, and so does WebDataset.

    Args:
        config: resolved.
        folder: where metrics.json goes.

    Returns:
        The number of images and of shards.

    Raises:
        UserError: the data aren't a folder of images, or can't be read.
    """
    data = build_data(config)
    if not isinstance(data, ImageFolder):
        raise UserError("job=pack packs a folder of images: give data=imagefolder or data=imagenet, and data.root.")
    target = Path(config.job.output_dir or f"{data.root}-packed")
    target.mkdir(parents=True, exist_ok=True)
    data.read_classes()
    totals = {"images": 0, "shards": 0}
    # A packed ImageNet has the splits by the names of what they are for.
    for name, source in (("train", data.TRAIN), ("val", data.VAL), ("test", data.TEST)):
        if source is None or not data.has_split(source):
            continue
        samples = data.scan(source)
        # Neighbours in a shard are of different classes, for those who read it from its beginning to its end.
        shown = track(shuffled(samples), description=f"{name}: {len(samples)} images", disable=not os.isatty(2))
        totals["shards"] += write_shards(target, name, shown, shard_bytes=int(config.job.shard_mib * 2**20))
        totals["images"] += len(samples)
    atomic_write(target / CLASSES, json.dumps(data.classes) + "\n")
    write_metrics(folder, totals)
    log.info("%d images in %d shards: data=packed data.root=%s", totals["images"], totals["shards"], target)
    return {key: float(value) for key, value in totals.items()}


def shuffled(samples: list[tuple[str, int]]) -> list[tuple[str, int]]:
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return [samples[i] for i in order.tolist()]
