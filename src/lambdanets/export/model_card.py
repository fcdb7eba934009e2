"""The model card, README.md, in the form that the Hugging Face hub reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lambdanets.data import ImageData
from lambdanets.export.formats import INT8, INT8_FILE
from lambdanets.machine import processor_name
from lambdanets.runs.provenance import package_version
from lambdanets.tasks import Task

# In metrics.json, of a run's test scores where the file has its own.
RUN_PREFIX = "run/"


def model_card(
    config: DictConfig,
    data: ImageData,
    *,
    task: type[Task],
    classes: Sequence[str],
    metrics: Mapping[str, float],
    evaluated: Mapping[str, float] | None = None,
    origin: Mapping[str, Any],
    files: Sequence[Path],
    quantization: str = "",
) -> str:
    """Return the card's Markdown.

    Args:
        config: of the run, resolved.
        data: prepares images as in evaluation.
        task: class of the run's task.
        classes: names of the classes.
        metrics: the run's scores; where `evaluated` has the same, under their name with `run/` in front.
        evaluated: test scores of the file, if it was tested.
        origin: command, commit and packages of this export.
        files: the model's files in the folder.
        quantization: see `describe_quantization`.
    """
    height, width = data.image_size
    file_list = "\n".join(f"- `{file.name}`, {file.stat().st_size / 2**20:,.1f} MiB" for file in files)
    return f"""---
library_name: lambdanets
pipeline_tag: {task.PIPELINE_TAG}
tags: [lambda-networks, pytorch]
---
# {config.name}

{describe_network(config)}, trained on {type(data).__name__} with seed {config.seed}.

```python
import lambdanets

model = lambdanets.load("<this folder>")
model.predict("photo.jpg")  # [(class, probability), …]
model(images)  # normalized, (B, {data.channels}, {height}, {width})
```

## Files

{file_list}
{quantization}
## Images

{describe_preprocessing(data)}

## Classes

{describe_classes(classes)}

{describe_scores(config, metrics, evaluated or {})}

## Origin

{describe_origin(origin)} `config.yaml` has the recipe, and `python run.py base_run=<this folder>` trains it again.

## Recipe

```yaml
{OmegaConf.to_yaml(config.recipe).strip()}
```
"""


def describe_network(config: DictConfig) -> str:
    """Name a config's model and mixer, with the options of the mixer."""
    mixer, model = (str(config[group]["_target_"]).rsplit(".", 1)[-1] for group in ("mixer", "model"))
    options = ", ".join(
        f"{key} {value}" for key, value in config.mixer.items() if not str(key).startswith("_") and value is not None
    )
    return f"{model} with the mixer {mixer}{f' ({options})' if options else ''}"


def describe_classes(classes: Sequence[str]) -> str:
    """Count and name classes, at most 20 of them."""
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    return f"{len(classes)}: {', '.join(f'`{name}`' for name in classes[:20])}{more}"


def describe_origin(origin: Mapping[str, Any]) -> str:
    """Return command, commit, date and packages of a job as a sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in origin["packages"].items() if version)
    return f"`{origin['command']}`, commit {origin['git'] or 'unknown'}, {origin['date'][:10]}; {packages}."


def describe_scores(config: DictConfig, metrics: Mapping[str, float], evaluated: Mapping[str, float]) -> str:
    """Return a section with the scores of a run, beside those of its file if it was tested.

    Args:
        config: of the run, resolved.
        metrics: see `model_card`.
        evaluated: test scores of the file.
    """
    if not evaluated:
        rows = [f"| {name} | {value:,.6g} |" for name, value in metrics.items()]
        return "\n".join(["## Scores of its run", "", "| score | value |", "|---|---|", *rows])
    rows = []
    for name, value in metrics.items():
        if not name.startswith(RUN_PREFIX):
            of_run = metrics.get(f"{RUN_PREFIX}{name}") if name in evaluated else value
            cells = (evaluated.get(name), of_run)
            rows.append(f"| {name} | {' | '.join('–' if cell is None else f'{cell:,.6g}' for cell in cells)} |")
    header = ["## Scores", "", "| score | this file | its run |", "|---|---|---|"]
    return "\n".join([*header, *rows, "", describe_evaluation(config)])


def describe_evaluation(config: DictConfig) -> str:
    """State the numerics of a file's test scores, on this machine."""
    return (
        f"The file was tested on {processor_name()} by torch {package_version('torch')}, with "
        f"`trainer.precision={config.trainer.precision}` in batches of {config.recipe.batch_size}, as `job=test` does; "
        "another processor or precision may give another class to a few images."
    )


def describe_quantization(metrics: Mapping[str, float]) -> str:
    """Return a section of the card that compares model_int8.onnx with the graph in float.

    Args:
        metrics: as job=export returns them.
    """
    rows = "\n".join(
        f"| {name} | {100 * metrics[f'{key}/top1']:.2f} % | {metrics[f'{key}/bytes']:,} | {metrics[f'{key}/ms']:.2f} |"
        for key, name in (("onnx", "float32"), (INT8, "int8"))
    )
    split = "test" if metrics[f"{INT8}/test"] else "validation"
    return f"""
## Quantization

`{INT8_FILE}` has weights and activations of 8 bits, but float images and logits. Its ranges are those of images of the
validation split.

| graph | top-1 | bytes | ms |
|---|---|---|---|
{rows}

top-1: {metrics[f"{INT8}/images"]:,} images of the {split} split; {100 * metrics[f"{INT8}/agreement"]:.2f} % of them get
the same class by both graphs. ms: median of one image on one thread of {processor_name()}, in ONNX Runtime.
"""


def describe_preprocessing(data: ImageData) -> str:
    """Describe in a sentence how an image becomes the network's input."""
    height, width = data.image_size
    colors = "one grey channel" if data.channels == 1 else "red, green and blue"
    mean, std = ([round(value, 4) for value in values.tolist()] for values in (data.mean, data.std))
    return (
        f"Images are {height} × {width} pixels, {colors}, scaled to [0, 1], minus {mean}, divided by {std}. "
        "`preprocessing.json` has the numbers, `model.preprocess(image)` does it."
    )
