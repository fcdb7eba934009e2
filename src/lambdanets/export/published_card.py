"""Model cards of published weights, and the page that lists them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lambdanets.data import ImageData
from lambdanets.export.model_card import (
    describe_classes,
    describe_network,
    describe_origin,
    describe_preprocessing,
    describe_scores,
)
from lambdanets.reports.statistics import MeanInterval, mean_interval
from lambdanets.runs.folders import EXPORTED, METRICS
from lambdanets.runs.published import source_name
from lambdanets.table import Table, TableRow
from lambdanets.tasks import Task

# The facts of published weights that belong to their row: its seeds and data, and logits to check the file by.
PUBLISHED = "published.json"
TITLE = "# Published weights"
LICENSE = "Apache-2.0, as this package"


class PublishedRow(NamedTuple):
    """The facts of a row whose best seed is published.

    Args:
        name: of the weights, `<data>/<row>`.
        seed: that was chosen.
        scores: by seed, then by name, of all finished seeds.
        monitor: the validation score that chose the seed.
        score: the test score.
        command: that trains the seed again.
        data: sentences on the data and their license.
    """

    name: str
    seed: int
    scores: Mapping[int, Mapping[str, float]]
    monitor: str
    score: str
    command: str
    data: str

    def interval(self, name: str) -> MeanInterval:
        """Return the mean of a score over the seeds, with its interval."""
        return mean_interval([scores[name] for scores in self.scores.values()])

    def to_json(self, logits: Iterable[float]) -> str:
        """Return the content of published.json.

        Args:
            logits: of `pattern_image`.
        """
        document = self._asdict() | {"logits": [round(logit, 5) for logit in logits]}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def read_published_row(folder: Path) -> PublishedRow:
    """Return the facts of the published weights in a folder."""
    stored = json.loads((folder / PUBLISHED).read_text(encoding="utf-8"))
    scores = {int(seed): scores for seed, scores in stored["scores"].items()}
    return PublishedRow(**{key: stored[key] for key in PublishedRow._fields} | {"scores": scores})


def published_card(
    row: PublishedRow,
    config: DictConfig,
    data: ImageData,
    *,
    source: str,
    dtype: str,
    task: type[Task],
    classes: list[str],
    metrics: Mapping[str, float],
    evaluated: Mapping[str, float],
    origin: Mapping[str, Any],
) -> str:
    """Return the card's Markdown.

    Args:
        row: that the weights belong to.
        config: of the run, resolved.
        data: prepares images as in evaluation.
        source: name or folder by which `load` finds the weights.
        dtype: of the stored matrices and kernels.
        task: class of the run's task.
        classes: names of the classes.
        metrics: the run's scores, see `model_card`.
        evaluated: test scores of the file.
        origin: command, commit and packages of the training.
    """
    height, width = data.image_size
    data_option = " data.root=<folder>" if "root" in config.data else ""
    network = f'lambdanets.create("{row.name}", pretrained=True)' if source == row.name else "model.network"
    return f"""---
library_name: lambdanets
pipeline_tag: {task.PIPELINE_TAG}
license: apache-2.0
tags: [lambda-networks, pytorch]
---
# {row.name}

{describe_network(config)}, {metrics["parameters"] / 1e6:.3f} million parameters.

```python
import lambdanets

model = lambdanets.load("{source}")
model.predict("photo.jpg")  # [(class, probability), …]
network = {network}  # (B, {data.channels}, {height}, {width}) → logits
```

## Data

{row.data}

{describe_preprocessing(data)} Matrices and kernels in `{EXPORTED}` are {dtype}, norms and biases float32; all become
float32 when they are read.

{describe_classes(classes)}

{describe_scores(config, metrics, evaluated)}

`python run.py job=test ckpt={source}{data_option}` gives the scores of this file again.

{describe_seeds(row)}

## Limits

The network was trained for {metrics["epochs"]:g} epochs to compare layers, not to be the best on these data. It gives
one of its classes to any image, and its probabilities are not calibrated. Use it for experiments, tests and teaching,
not for decisions.

## Origin

{describe_origin(origin)}

`{row.command}{data_option}` trains it again.

## License

Weights: {LICENSE}. Data: see above.

## Recipe

```yaml
{OmegaConf.to_yaml(config.recipe).strip()}
```
"""


def describe_seeds(row: PublishedRow) -> str:
    """Return the card's section on the seeds of a row, the only one that depends on other seeds than the published."""
    seeds = Table("", ["seed", row.monitor, row.score])
    for seed, scores in sorted(row.scores.items()):
        cells: TableRow = {name: percent(scores[name]) for name in (row.monitor, row.score)}
        seeds.rows.append({"seed": f"**{seed}**" if seed == row.seed else str(seed), **cells})
    return f"""## Seeds

{seeds.to_markdown()}
The seed of best {row.monitor} is published; test scores had no part in the choice. Mean {row.score} of the runs:
{describe_interval(row.interval(row.score))}."""


def published_page(folder: Path) -> str:
    """Return the Markdown of the page that lists all published weights in a folder.

    Args:
        folder: with `<data>/<row>/` below it.
    """
    # The weights are the last file of a row: one that was interrupted isn't published.
    weights = sorted(file.parent for file in folder.rglob(PUBLISHED) if (file.parent / EXPORTED).is_file())
    rows: list[TableRow] = []
    data: dict[str, str] = {}
    for path in weights:
        row = read_published_row(path)
        metrics = json.loads((path / METRICS).read_text(encoding="utf-8"))
        data.setdefault(row.name.split("/")[0], row.data)
        rows.append(
            {
                "weights": f"[{row.name}]({row.name}/README.md)",
                "M parameters": f"{metrics['parameters'] / 1e6:.3f}",
                "MB": f"{(path / EXPORTED).stat().st_size / 1e6:.2f}",
                "validation": percent(metrics[row.monitor]),
                "test": percent(metrics[row.score]),
                "mean test": describe_interval(row.interval(row.score)),
                "seeds": ", ".join(f"**{seed}**" if seed == row.seed else str(seed) for seed in sorted(row.scores)),
            }
        )
    table = Table("", list(rows[0]) if rows else [], rows)
    total = sum((path / EXPORTED).stat().st_size for path in weights) / 1e6
    sources = "\n".join(f"- `{name}`: {text}" for name, text in data.items())
    content = f"""Of each of these rows, the seed with the best validation score; {total:.1f} MB in all. License of
the weights: {LICENSE}.

{table.to_markdown()}
Scores are top-1 in percent. Validation: of the published seed, in bold, which was chosen by it. Test: of the file, as
`job=test` gives it again. Mean test: of the runs of these seeds, with Student's 95 % interval. It covers the choice of
seeds, not that of the test images, and its formula knows no bounds: with few seeds that differ much, it passes 100 %.

{sources}"""
    example = source_name(folder, "<data>/<row>")
    listed = "lambdanets.list_models(pretrained=True)  # the names of the weights below\n"
    return f"""{TITLE}

```python
import lambdanets

{listed if example == "<data>/<row>" else ""}model = lambdanets.load("{example}")
```

{content if weights else "No weights are published yet."}
"""


def percent(score: float) -> str:
    return f"{100 * score:.2f}"


def describe_interval(interval: MeanInterval) -> str:
    """Return a mean in percent with its interval, of a single seed without one."""
    if interval.low is None or interval.high is None:
        return percent(interval.mean)
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"
