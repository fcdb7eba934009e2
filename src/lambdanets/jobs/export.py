"""job=export: a run's model in files for other programs."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_data, task_class
from lambdanets.config.keys import COMMAND_KEYS
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.data import ImageData
from lambdanets.errors import UserError
from lambdanets.export.formats import FORMATS, write_graph
from lambdanets.export.model_card import model_card
from lambdanets.export.portable import portable_copy
from lambdanets.hub.load import LABELS_FILE, load, load_network
from lambdanets.runs import provenance
from lambdanets.runs.checkpoints import read_checkpoint, write_weights
from lambdanets.runs.folders import EXPORTED, METRICS, RESOLVED_CONFIG, UNRESOLVED_CONFIG, write_metrics

log = logging.getLogger(__name__)
SAFETENSORS = "safetensors"
# The largest difference of a graph's logits from the network's, in units of the largest logit.
TOLERANCE = 1e-4


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Write the model of the checkpoint config.ckpt in the formats of config.format, with what is needed to use it.

    The folder always gets the weights as model.safetensors, a format that can't hold code; the graphs that are asked
    for, for any number of images; config.yaml, labels.json, preprocessing.json, metrics.json and a model card. Each
    file is read again and compared with the network. `lambdanets.load(folder)` opens the folder.

    Args:
        config: resolved.
        folder: folder for the files; those of an earlier export stay.

    Returns:
        The number of weights, and the difference of each format's logits from the network's, in units of the largest
        one.

    Raises:
        UserError: no checkpoint is named, it can't be read, a format isn't known, or can't hold this model.
    """
    silence_lightning()
    if config.ckpt is None:
        raise UserError("job=export needs a checkpoint: ckpt=<run's folder>, ckpt=<file> or ckpt=last.")
    formats = [config.format] if isinstance(config.format, str) else list(config.format)
    for name in formats:
        if name not in (SAFETENSORS, *FORMATS):
            raise UserError(f"format={name} is not known; choose among {', '.join((SAFETENSORS, *FORMATS))}.")
    task = task_class(config)
    graphs = [name for name in formats if name != SAFETENSORS]
    if graphs and task.NO_GRAPH:
        raise UserError(
            f"format={graphs[0]} can't hold this model: {task.NO_GRAPH}. Use format=safetensors, which "
            "lambdanets.load opens."
        )
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    network = load_network(config, data, checkpoint, Path(config.ckpt))
    write_descriptions(config, data, checkpoint["labels"], folder)
    weights = folder / EXPORTED
    write_weights(weights, checkpoint)
    metrics: dict[str, float] = {"weights": sum(tensor.numel() for tensor in network.state_dict().values())}
    if task.NO_GRAPH:
        check_weights(network, weights, config)
    else:
        images = torch.randn(3, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))
        metrics["difference/safetensors"] = check_logits(weights, network, images, config)
        dynamic_size = config.job.get("dynamic_size", False)
        for name in graphs:
            file = folder / FORMATS[name].file
            options = {"runtime": FORMATS[name].runtime, "dynamic_size": dynamic_size}
            portable = portable_copy(network, images, **options)
            write_graph(name, portable, images[:2], file, dynamic_size=dynamic_size)
            metrics[f"difference/{name}"] = check_logits(file, network, images, config)
            if dynamic_size:
                larger = nn.functional.pad(images, (0, 64, 0, 32))
                difference = check_logits(file, network, larger, config)
                metrics[f"difference/{name}"] = max(metrics[f"difference/{name}"], difference)
    scores = run_scores(Path(config.ckpt))
    write_metrics(folder, scores | metrics)
    names = (weights.name, *(known.file for known in FORMATS.values()))
    card = model_card(
        config,
        data,
        task=task,
        classes=checkpoint["labels"]["classes"],
        metrics=scores,
        origin=provenance.describe_origin(),
        files=[folder / name for name in names if (folder / name).is_file()],
    )
    atomic_write(folder / "README.md", card)
    print_metrics(metrics, title=f"{config.name}: differences are in units of the largest logit")
    log.info("Written to %s; lambdanets.load opens it.", os.path.relpath(folder))
    return metrics


def write_descriptions(config: DictConfig, data: ImageData, labels: dict[str, Any], folder: Path) -> None:
    """Write config.yaml, labels.json and preprocessing.json."""
    model_config = OmegaConf.create(
        {key: value for key, value in config.items() if key not in ("sweep", *COMMAND_KEYS)}
    )
    atomic_write(folder / RESOLVED_CONFIG, OmegaConf.to_yaml(model_config, resolve=True))
    atomic_write(folder / LABELS_FILE, json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
    preprocessing = {
        "channels": data.channels,
        "image_size": list(data.image_size),
        "scale": "0 to 1",
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "order": "(B, C, H, W), float32",
    }
    atomic_write(folder / "preprocessing.json", json.dumps(preprocessing, indent=1) + "\n")


def check_weights(network: nn.Module, file: Path, config: DictConfig) -> None:
    """Read the weights again.

    Raises:
        UserError: they are not exactly the network's.
    """
    stored = load(file, allow_targets=config.get("allow_targets") or ()).network
    assert stored is not None
    expected = network.state_dict()
    if any(not torch.equal(tensor, expected[name]) for name, tensor in stored.state_dict().items()):
        raise UserError(f"{file.name} doesn't hold the weights that were written to it: the disk may be damaged.")


@torch.no_grad()
def check_logits(file: Path, network: nn.Module, images: Tensor, config: DictConfig) -> float:
    """Return the largest difference of a file's logits from the network's, for one image and for several.

    Raises:
        UserError: the difference is larger than TOLERANCE; the file is removed.
    """
    model = load(file, allow_targets=config.get("allow_targets") or ())
    difference = 0.0
    for batch in (images[:1], images):
        expected = network(batch)
        error = float((model(batch) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        difference = max(difference, error)
    if not difference <= TOLERANCE:
        file.unlink()
        raise UserError(
            f"The logits of {file.name} differ from the network's by {difference:.1e} of the largest one, more than "
            f"{TOLERANCE}: the file was removed. Choose another format."
        )
    return difference


def run_scores(ckpt: Path) -> dict[str, float]:
    """Return the scores of the checkpoint's run, or those in an earlier export of it."""
    for folder in (ckpt.parent.parent, ckpt.parent):
        if (file := folder / METRICS).is_file() and (folder / UNRESOLVED_CONFIG).is_file():
            metrics = json.loads(file.read_text())
            return {n: value for n, value in metrics.items() if n != "weights" and not n.startswith("difference/")}
    return {}
