"""job=export: a run's model for others."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_data
from lambdanets.config.keys import COMMAND_KEYS
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.data import ImageData
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS, write
from lambdanets.export.model_card import model_card
from lambdanets.export.portable import portable
from lambdanets.hub.load import LABELS_FILE, load, load_network
from lambdanets.runs import provenance
from lambdanets.runs.checkpoints import read_checkpoint, write_weights
from lambdanets.runs.folders import EXPORTED, METRICS, RESOLVED_CONFIG, UNRESOLVED_CONFIG, write_metrics

log = logging.getLogger(__name__)
SAFETENSORS = "safetensors"
# How far a graph's logits may be from the network's, in units of the largest logit.
TOLERANCE = 1e-4


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Writes the model of the checkpoint config.ckpt in the formats of config.format, with all that others need of it.

    The folder gets the weights as model.safetensors, a format that can't hold code, in any case; the graphs that are
    asked for, for any number of images; config.yaml, labels.json, preprocessing.json, metrics.json and a model card.
    Each file is read again, and its logits are compared with the network's. `lambdanets.load(folder)` opens it.

    Args:
        config: resolved.
        folder: where the files go; those of an earlier export stay.

    Returns:
        The number of weights, and how far each format's logits are from the network's, in units of the largest one.

    Raises:
        UserError: no checkpoint is named, it can't be read, a format isn't known, or can't hold this model.
    """
    silence_lightning()
    if config.ckpt is None:
        raise UserError("job=export needs a checkpoint: ckpt=<run's folder>, ckpt=<file> or ckpt=last.")
    asked = [config.format] if isinstance(config.format, str) else list(config.format)
    for name in asked:
        if name not in (SAFETENSORS, *FORMATS):
            raise UserError(f"format={name} is not known; choose among {', '.join((SAFETENSORS, *FORMATS))}.")
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    if data.TASK == "detection" and set(asked) != {SAFETENSORS}:
        raise UserError(
            f"format={config.format} can't hold a detector: how much a graph computes would depend on what is found in "
            "an image; use format=safetensors, whose models load() opens."
        )
    network = load_network(config, data, checkpoint, Path(config.ckpt))
    describe(config, data, checkpoint, folder)
    weights = folder / EXPORTED
    write_weights(weights, checkpoint)
    metrics: dict[str, float] = {"weights": sum(tensor.numel() for tensor in network.state_dict().values())}
    if data.TASK == "detection":
        check_weights(network, weights, config)
    else:
        images = torch.randn(3, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))
        if graphs := [name for name in asked if name != SAFETENSORS]:
            simple = portable(network, images)
        metrics["difference/safetensors"] = difference(weights, network, images, config)
        for name in graphs:
            file = folder / FORMATS[name].file
            write(name, simple, images[:2], file)
            metrics[f"difference/{name}"] = difference(file, network, images, config)
    earlier = scores(Path(config.ckpt))
    write_metrics(folder, earlier | metrics)
    names = (weights.name, *(known.file for known in FORMATS.values()))
    files = [folder / name for name in names if (folder / name).is_file()]
    origin = provenance.origin()
    card = model_card(config, data, classes=checkpoint["classes"], metrics=earlier, origin=origin, files=files)
    atomic_write(folder / "README.md", card)
    print_metrics(metrics, title=f"{config.name}: differences are in units of the largest logit")
    log.info("Written to %s; lambdanets.load opens it.", os.path.relpath(folder))
    return metrics


def describe(config: DictConfig, data: ImageData, checkpoint: dict[str, Any], folder: Path) -> None:
    """Writes config, labels and preprocessing."""
    said = OmegaConf.create({key: value for key, value in config.items() if key not in ("sweep", *COMMAND_KEYS)})
    atomic_write(folder / RESOLVED_CONFIG, OmegaConf.to_yaml(said, resolve=True))
    labels = {key: checkpoint[key] for key in ("classes", "category_ids") if key in checkpoint}
    atomic_write(folder / LABELS_FILE, json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
    prepared = {
        "channels": data.channels,
        "image_size": list(data.image_size),
        "scale": "0 to 1",
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "order": "(B, C, H, W), float32",
    }
    atomic_write(folder / "preprocessing.json", json.dumps(prepared, indent=1) + "\n")


@torch.no_grad()
def difference(file: Path, network: nn.Module, images: Tensor, config: DictConfig) -> float:
    """How far a file's logits are from the network's: of one image, and of several.

    Raises:
        UserError: further than TOLERANCE; the file is removed.
    """
    run = load(file, allow_targets=config.get("allow_targets") or ())
    found = 0.0
    for batch in (images[:1], images):
        expected = network(batch)
        found = max(found, float((run(batch) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
    if not found <= TOLERANCE:
        file.unlink()
        raise UserError(
            f"{file.name} gives logits that differ from the network's by {found:.1e} of the largest one, more than "
            f"{TOLERANCE}: it was removed; take another format."
        )
    return found


def check_weights(network: nn.Module, file: Path, config: DictConfig) -> None:
    """Raises UserError: a detector's file doesn't hold its weights."""
    read = load(file, allow_targets=config.get("allow_targets") or ()).network
    assert read is not None
    expected = network.state_dict()
    if any(not torch.equal(tensor, expected[name]) for name, tensor in read.state_dict().items()):
        raise UserError(f"{file.name} doesn't hold the weights that were written to it: the disk may be damaged.")


def scores(ckpt: Path) -> dict[str, float]:
    """What the checkpoint's run, or an earlier export of it, has come to."""
    for folder in (ckpt.parent.parent, ckpt.parent):
        if (file := folder / METRICS).is_file() and (folder / UNRESOLVED_CONFIG).is_file():
            found = json.loads(file.read_text())
            return {
                name: value for name, value in found.items() if name != "weights" and not name.startswith("difference/")
            }
    return {}
