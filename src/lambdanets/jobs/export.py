"""job=export: a run's model in files for other programs."""

import json
import logging
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from lambdanets.atomic import atomic_write
from lambdanets.benchmarks.measure import Setting
from lambdanets.config.build import build_data, task_class
from lambdanets.config.keys import COMMAND_KEYS, MACHINE_KEYS, NETWORK_KEYS
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.data import ImageData, ImageFolder
from lambdanets.errors import UserError
from lambdanets.export.evaluate import classify_images, read_images
from lambdanets.export.formats import FORMATS, GRAPH_FILES, INT8, INT8_FILE, import_package, read_onnx, write_graph
from lambdanets.export.int8 import quantize_graph
from lambdanets.export.model_card import RUN_PREFIX, describe_quantization, model_card
from lambdanets.export.portable import portable_copy
from lambdanets.hub.load import LABELS_FILE, load, load_network
from lambdanets.jobs.test import load_test_split, score_checkpoint
from lambdanets.runs import provenance
from lambdanets.runs.checkpoints import STORED_DTYPES, check_classes, pack_weights, read_checkpoint, round_weights
from lambdanets.runs.folders import EXPORTED, METRICS, RESOLVED_CONFIG, UNRESOLVED_CONFIG, owner_run, write_metrics

log = logging.getLogger(__name__)
CARD_MARK = "library_name: lambdanets"  # in every model card
SAFETENSORS = "safetensors"
# The largest difference of a graph's logits from the network's, in units of the largest logit.
TOLERANCE = 1e-4
# The loss of accuracy by quantization, as a fraction of the images, above which a warning is logged.
MAX_ACCURACY_LOSS = 0.01
# Metrics of files, which an export doesn't take over from an earlier one.
FILE_METRICS = ("weights", "difference/", "onnx/", f"{INT8}/", RUN_PREFIX)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Write the model of the checkpoint config.ckpt in the formats of config.format, with what is needed to use it.

    The folder always gets the weights as model.safetensors, a format that can't hold code; the graphs that are asked
    for, for any number of images; config.yaml, labels.json, preprocessing.json, metrics.json and a model card. Each
    file is read again and compared with the network: by its logits, and with format=onnx_int8 by its accuracy. With
    job.dtype=float16, this network and the graphs have the rounded weights. `lambdanets.load(folder)` opens the
    folder.

    Args:
        config: resolved.
        folder: folder for the files; graphs of an earlier export stay if they have the same weights.

    Returns:
        The number of weights, and the difference of each format's logits from the network's, in units of the largest
        one; of format=onnx_int8 what `quantize` returns; with job.evaluate the test scores of model.safetensors.

    Raises:
        UserError: no checkpoint is named, it can't be read, a format isn't known, or can't hold this model; or
            format=onnx_int8 has no validation images.
    """
    silence_lightning()
    if config.ckpt is None:
        raise UserError("job=export needs a checkpoint: ckpt=<run's folder>, <file>, <published weights> or last.")
    formats = list(config.format) if isinstance(config.format, ListConfig) else [config.format]
    known = (SAFETENSORS, *FORMATS, INT8)
    for name in formats:
        if name not in known:
            raise UserError(f"format={name} is not known; choose among {', '.join(known)}.")
    task = task_class(config)
    graphs = [name for name in formats if name != SAFETENSORS]
    if graphs and task.NO_GRAPH:
        raise UserError(
            f"format={graphs[0]} can't hold this model: {task.NO_GRAPH}. Use format=safetensors, which "
            "lambdanets.load opens."
        )
    check_card(folder)
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    weights = folder / EXPORTED
    dtype = config.job.get("dtype", "float32")
    packed = exported_config(checkpoint["config"], provenance.unresolved_config(config, folder))
    network, metrics = write_model(config, data, checkpoint, folder, dtype=dtype, packed_config=packed)
    if graphs:
        images = example_images(data)
        dynamic_size = config.job.get("dynamic_size", False)
        for name in graphs:
            if name == INT8:
                continue
            file = folder / FORMATS[name].file
            options = {"runtime": FORMATS[name].runtime, "dynamic_size": dynamic_size}
            portable = portable_copy(network, images, **options)
            write_graph(name, portable, images[:2], file, dynamic_size=dynamic_size)
            metrics[f"difference/{name}"] = check_logits(file, network, images, config)
            if dynamic_size:
                larger = nn.functional.pad(images, (0, 64, 0, 32))
                difference = check_logits(file, network, larger, config)
                metrics[f"difference/{name}"] = max(metrics[f"difference/{name}"], difference)
        if INT8 in graphs:
            metrics |= quantize(network, config, data, checkpoint["labels"]["classes"], folder)
    scores = run_scores(Path(config.ckpt))
    evaluated = score_file(config, weights, folder) if config.job.get("evaluate", False) else {}
    scores = add_file_scores(scores, evaluated)
    write_metrics(folder, scores | metrics)
    metrics |= evaluated
    card = model_card(
        config,
        data,
        task=task,
        classes=checkpoint["labels"]["classes"],
        metrics=scores,
        evaluated=evaluated,
        origin=provenance.describe_origin(),
        files=[folder / name for name in (weights.name, *GRAPH_FILES) if (folder / name).is_file()],
        quantization=describe_quantization(metrics) if INT8 in graphs else "",
    )
    atomic_write(folder / "README.md", card)
    print_metrics(metrics, title=f"{config.name}: differences are in units of the largest logit")
    log.info("Written to %s; lambdanets.load opens it.", os.path.relpath(folder))
    return metrics


def check_card(folder: Path) -> None:
    """Check that the folder has no README.md but the card of an earlier export.

    Raises:
        UserError: it is another one.
    """
    card = folder / "README.md"
    if card.is_file() and CARD_MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"'{card}' would be replaced by the model's card, and is another file: set hydra.run.dir to a folder for "
            "the export alone, or move the file away."
        )


def exported_config(stored: dict[str, Any], config: DictConfig) -> dict[str, Any]:
    """Return a checkpoint's config with the command's network, data and recipe, but for what belongs to a machine.

    Args:
        stored: the checkpoint's.
        config: the command's, with its interpolations.
    """
    groups = {key: config[key] for key in NETWORK_KEYS if isinstance(config.get(key), DictConfig)}
    exported: dict[str, Any] = stored | {key: OmegaConf.to_container(group) for key, group in groups.items()}
    for key in MACHINE_KEYS:
        group, name = key.split(".")
        if name in stored.get(group, {}) and name in exported[group]:
            exported[group] = exported[group] | {name: stored[group][name]}
    return exported


def write_model(
    config: DictConfig,
    data: ImageData,
    checkpoint: dict[str, Any],
    folder: Path,
    *,
    dtype: str = "float32",
    packed_config: dict[str, Any] | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Write model.safetensors, config.yaml, labels.json and preprocessing.json, and read the weights again.

    Graphs of other weights are removed before that, so that they never stand beside these files.

    Args:
        config: of the run, resolved; config.ckpt names the checkpoint in messages.
        data: of the config.
        checkpoint: as `read_checkpoint` returns it.
        folder: folder for the files.
        dtype: a key of STORED_DTYPES, see `pack_weights`.
        packed_config: the config in the file of the weights, instead of the checkpoint's.

    Returns:
        The network with the weights as they are stored, and the number of weights with the difference of its logits
        from those of the file.

    Raises:
        UserError: the dtype isn't known, a weight is too large for it, or the file differs from the network.
    """
    if dtype not in STORED_DTYPES:
        raise UserError(f"job.dtype={dtype} is not known; choose among {', '.join(STORED_DTYPES)}.")
    number = STORED_DTYPES[dtype]
    checkpoint = checkpoint | {"state_dict": round_weights(checkpoint["state_dict"], number)}
    network = load_network(config, data, checkpoint, Path(config.ckpt))
    weights = folder / EXPORTED
    content = pack_weights(checkpoint | {"config": packed_config or checkpoint["config"]}, dtype=number)
    if not weights.is_file() or weights.read_bytes() != content:
        remove_graphs(folder)
    write_descriptions(config, data, checkpoint["labels"], folder)
    atomic_write(weights, content)
    metrics: dict[str, float] = {"weights": sum(tensor.numel() for tensor in network.state_dict().values())}
    if task_class(config).NO_GRAPH:
        check_weights(network, weights, config)
    else:
        metrics["difference/safetensors"] = check_logits(weights, network, example_images(data), config)
    return network, metrics


def remove_graphs(folder: Path) -> None:
    """Remove the graphs of an earlier export, which has other weights than this one."""
    for file in (folder / name for name in GRAPH_FILES):
        if file.is_file():
            file.unlink()
            log.warning("'%s' had the weights of an earlier export and was removed.", file)


def example_images(data: ImageData) -> Tensor:
    """Return normalized noise, (3, C, H, W)."""
    return torch.randn(3, data.channels, *data.image_size, generator=torch.Generator().manual_seed(0))


def score_file(config: DictConfig, weights: Path, folder: Path) -> dict[str, float]:
    """Return the test scores of exported weights as job=test computes them, on one device.

    Args:
        config: of the run, resolved.
        weights: the file.
        folder: folder for the list of corrupt images, if there are any.

    Raises:
        UserError: there are no test images, or their classes differ.
    """
    config = config.copy()
    config.ckpt = str(weights)
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
    return score_checkpoint(config, folder)


def add_file_scores(scores: dict[str, float], evaluated: dict[str, float]) -> dict[str, float]:
    """Return scores of a run with those of its file in their place; the run's get the prefix `run/`."""
    of_run = {f"{RUN_PREFIX}{name}": scores[name] for name in evaluated if name in scores}
    return scores | evaluated | of_run


def quantize(
    network: nn.Module, config: DictConfig, data: ImageData, classes: list[str], folder: Path
) -> dict[str, float]:
    """Write model_int8.onnx, calibrated on validation images, and compare it with the graph in float.

    Log a warning if the accuracy falls by more than MAX_ACCURACY_LOSS.

    Args:
        network: in evaluation mode.
        config: of the export; `config.job` has its options.
        data: the run's data.
        classes: names of the checkpoint's classes.
        folder: folder for the file.

    Returns:
        For "onnx" and "onnx_int8" each: top1, the accuracy; bytes, the size of the file; ms, the median time of one
        image on one thread. Of "onnx_int8" also: agreement, the fraction of images with the same predicted class;
        images, their number; test, 1 if they are of the test split, and 0 of the validation split.

    Raises:
        UserError: the data have no validation images or other classes, or a package is missing.
    """
    import_package("onnxruntime", INT8)
    file, options = folder / INT8_FILE, config.job
    for key in ("calibration_images", "evaluation_images"):
        if options[key] < 1:
            raise UserError(f"job.{key}={options[key]} leaves no images: set 1 or more.")
    load_validation_split(data, classes, config.ckpt)
    if data.has_test:
        load_test_split(data, classes, config.ckpt)
    images = torch.zeros(2, data.channels, *data.image_size)
    calibration = (batch for batch, _ in read_images(data, data.val_set, options.calibration_images))
    with tempfile.TemporaryDirectory() as temporary:
        float_file = Path(temporary, FORMATS["onnx"].file)
        portable = portable_copy(network, images, runtime="onnx", dynamic_size=options.dynamic_size)
        write_graph("onnx", portable, images, float_file, dynamic_size=options.dynamic_size)
        quantize_graph(float_file, file, calibration, reduce_range=options.reduce_range)
        files = {"onnx": float_file, INT8: file}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        split = data.test_set if data.has_test else data.val_set
        predictions, labels = classify_images(
            {name: read_onnx(path) for name, path in files.items()}, read_images(data, split, options.evaluation_images)
        )
        setting = Setting(device="cpu", threads=1, repeats=30, passes=1, seconds=0.3)
        with setting.apply():
            runs = {name: read_onnx(path) for name, path in files.items()}
            times = setting.measure_times({name: partial(run, images[:1]) for name, run in runs.items()})
    metrics: dict[str, float] = {}
    for name in files:
        top1 = (predictions[name] == labels).float().mean().item()
        metrics |= {f"{name}/top1": top1, f"{name}/bytes": sizes[name], f"{name}/ms": 1e3 * times[name]}
    agreement = (predictions["onnx"] == predictions[INT8]).float().mean().item()
    metrics |= {f"{INT8}/agreement": agreement, f"{INT8}/images": len(labels), f"{INT8}/test": int(data.has_test)}
    loss = metrics["onnx/top1"] - metrics[f"{INT8}/top1"]
    if loss > MAX_ACCURACY_LOSS:
        log.warning(
            "Quantization costs %.1f points of top-1 accuracy, %.2f %% instead of %.2f %%, more than %g: %s was "
            "written, but use model.onnx, or try job.calibration_images=%d.",
            100 * loss,
            100 * metrics[f"{INT8}/top1"],
            100 * metrics["onnx/top1"],
            100 * MAX_ACCURACY_LOSS,
            file.name,
            4 * options.calibration_images,
        )
    return metrics


def load_validation_split(data: ImageData, trained: list[str], ckpt: str) -> None:
    """Load the validation split, whose classes must be those of the checkpoint.

    Args:
        data: the data module.
        trained: names of the checkpoint's classes.
        ckpt: the checkpoint, for messages.

    Raises:
        UserError: there are no such images, or the classes differ.
    """
    if isinstance(data, ImageFolder):
        data.memory_gib = 0.0  # decodes the images in use only, instead of all splits
    try:
        data.restore_classes(trained)
        data.prepare_data()
        data.setup("fit")
    except UserError as error:
        raise UserError(f"format={INT8} calibrates on validation images, which can't be read: {error}") from error
    val_set: Any = data.val_set
    if not len(val_set):
        raise UserError(f"format={INT8} calibrates on validation images, and the data have none: add some.")
    check_classes(data.classes, trained, ckpt)


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
    errors = []
    for batch in (images[:1], images):
        expected = network(batch)
        if not expected.isfinite().all():
            raise UserError(f"The logits of '{config.ckpt}' are not finite: its training diverged. Export another one.")
        errors.append((model(batch) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    difference = float(torch.stack(errors).max())  # nan, if one of them is
    if not difference <= TOLERANCE:
        file.unlink()
        raise UserError(
            f"The logits of {file.name} differ from the network's by {difference:.1e} of the largest one, more than "
            f"{TOLERANCE}: the file was removed. Choose another format."
        )
    return difference


def run_scores(ckpt: Path) -> dict[str, float]:
    """Return the scores of the checkpoint's run, or those in an earlier export of it."""
    is_beside = ckpt.name == EXPORTED or (ckpt.parent / UNRESOLVED_CONFIG).is_file()
    for folder in (owner_run(ckpt), ckpt.parent if is_beside else None):
        if folder is not None and (file := folder / METRICS).is_file():
            metrics = json.loads(file.read_text(encoding="utf-8"))
            scores = {name: value for name, value in metrics.items() if not name.startswith(FILE_METRICS)}
            return {name: metrics.get(f"{RUN_PREFIX}{name}", value) for name, value in scores.items()}
    return {}
