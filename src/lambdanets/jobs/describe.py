"""job=describe: what networks cost, without training or running them."""

import json
import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.config import experiments
from lambdanets.config.build import Images, build_model, check_numbers, images_of
from lambdanets.console import silence_lightning
from lambdanets.costs.closed_forms import FORMS, total_memory_gib, total_multiply_adds
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.costs.layer_sizes import mixing_layers
from lambdanets.progress import progress_bar
from lambdanets.reports.published import published_value, row_label
from lambdanets.runs import provenance
from lambdanets.table import Row, Table

MIB = 2**20


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Describes the config's network, or those of all rows of a sweep; prints tables, writes JSON and Markdown.

    Args:
        config: resolved.
        folder: where describe.json and describe.md go.

    Returns:
        Of a single config: parameters, FLOPs and bytes of activations; of a sweep the number of rows.
    """
    silence_lightning()
    batch, device = config.job.batch, config.job.device
    title = (OmegaConf.select(config, "sweep.title") or config.name) + ", described"
    networks = Table(title, ["row", "image", "M parameters", "published M", "GFLOPs", "GFLOPs, paper's order"])
    networks.columns += ["MiB / image", "published top-1"]
    forms = Table(f"Closed forms, batch {batch}", ["row", "layers", "time", "space", "G multiply-adds", "GiB"])
    forms.columns += ["published GB"]
    parts = Table("Part by part", ["row", "part", "M parameters", "GFLOPs", "GFLOPs, paper's order", "MiB / image"])
    costs: dict[str, ModelCost] = {}
    pieces: list[dict[str, ModelCost]] = []
    for name, row in progress_bar(experiments.rows(config).items(), "rows"):
        check_numbers(row)
        images = images_of(row)
        counted = count_costs(
            lambda row=row, images=images: build_model(row, images),  # type: ignore[misc]
            channels=images.channels,
            image_size=images.size,
            batch=batch,
            device=device,
        )
        pieces.append(counted)
        costs[name] = sum_costs(counted)
        shown = row_label(name)
        networks.rows.append(
            {
                "row": shown,
                "image": f"{images.size[0]}²",
                **cells(costs[name]),
                "published M": text(name, "params"),
                "published top-1": text(name, "top1"),
            }
        )
        parts.rows += [{"row": shown, "part": part, **cells(cost)} for part, cost in counted.items()]
        if form := closed_form(row, images, batch):
            forms.rows.append({"row": shown, **form, "published GB": text(name, "memory")})
    networks.notes += [
        "FLOPs: of one image's forward pass, two a multiply-add; by the exact methods that our layers choose on "
        f"{device} at batch {batch}, and in the paper's order: all lambdas first.",
        "MiB: what a training step keeps of an image for its backward pass, in float32.",
    ]
    if any("box head" in counted for counted in pieces):
        networks.notes.append(
            "Of a detector, with all regions that its heads look at in evaluation; MiB without those of the targets."
        )
    if any(row["published M"] or row["published top-1"] for row in networks.rows):
        networks.notes.append("Published numbers are the papers'; unconfirmed: as recalled, not read again.")
    forms.notes.append(
        "Multiply-adds: of an image's products that relate positions. GiB: of attention maps in float32, or of "
        "embeddings as the paper expands them (Table 4); ours are not."
    )
    tables = [networks, *([forms] if forms.rows else []), parts]
    for table in tables if len(costs) == 1 or config.job.parts else tables[:-1]:
        table.show()
    save(tables, folder)
    print(f"Written to {os.path.relpath(folder)}/describe.md and .json.")
    if len(costs) > 1:
        return {"rows": len(costs)}
    (cost,) = costs.values()
    return {"parameters": cost.parameters, "flops": cost.flops, "activations": cost.activations}


def cells(cost: ModelCost) -> Row:
    return {
        "M parameters": f"{cost.parameters / 1e6:.3f}",
        "GFLOPs": cost.flops / 1e9,
        "GFLOPs, paper's order": cost.paper_flops / 1e9,
        "MiB / image": cost.activations / MIB,
    }


def text(experiment: str, quantity: str) -> str | None:
    found = published_value(experiment, quantity)
    return None if found is None else str(found)


def closed_form(config: DictConfig, images: Images, batch: int) -> Row | None:
    with torch.device("meta"):
        found = mixing_layers(build_model(config, images), images.size)
    if found is None:
        return None
    kind, layers = found
    form = FORMS[kind]
    gib = total_memory_gib(kind, layers, batch)
    digits = 3 if gib < 1 else 2 if gib < 100 else 1
    return {
        "layers": f"{len(layers)} × {form.name}",
        "time": form.time,
        "space": form.space,
        "G multiply-adds": total_multiply_adds(kind, layers) / 1e9,
        "GiB": f"{gib:.{digits}f}".rstrip("0"),
    }


def save(tables: list[Table], folder: Path) -> None:
    origin = provenance.origin()
    lines = [f"# {tables[0].title}", "", f"{origin['date'][:10]}, `{origin['command']}`", ""]
    for table in tables:
        lines += [f"## {table.title}", "", table.markdown()]
    atomic_write(folder / "describe.md", "\n".join(lines))
    document = {"title": tables[0].title, "origin": origin}
    document |= {table.title: {"rows": table.rows, "notes": table.notes} for table in tables}
    atomic_write(folder / "describe.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
