"""job=describe: costs of networks, counted without training or running them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from lambdanets.atomic import atomic_write
from lambdanets.config import experiments
from lambdanets.config.build import build_model, check_numbers, image_spec
from lambdanets.console import silence_lightning
from lambdanets.costs.closed_forms import (
    BFLOAT16,
    FLOAT,
    FORMS,
    GIB,
    INTRODUCTION_EXAMPLES,
    LayerSizes,
    total_memory_gib,
    total_multiply_adds,
)
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.costs.layer_sizes import mixing_layers
from lambdanets.models import CompositeNetwork
from lambdanets.progress import progress_bar
from lambdanets.reports.published import (
    LARGEST_DIFFERENCE,
    format_published,
    published_note,
    published_value,
    row_label,
    row_note,
)
from lambdanets.runs import provenance
from lambdanets.table import Table, TableRow

MIB = 2**20
PUBLISHED = {
    "published M": "params",
    "published GFLOPs": "flops",
    "published top-1": "top1",
    "published gain": "gain",
}  # columns that only tables with a published number have


@dataclass(frozen=True)
class Description:
    """The costs of one experiment's network.

    Args:
        experiment: its name.
        image_size: (H, W).
        parts: costs by part.
        form: cells of the closed form of its mixing layers, None without such layers.
        form_kind: key of FORMS, None without such layers.
        note: how the network is counted, if that is peculiar to it.
    """

    experiment: str
    image_size: tuple[int, int]
    parts: dict[str, ModelCost]
    form: TableRow | None
    form_kind: str | None
    note: str | None

    @property
    def cost(self) -> ModelCost:
        return sum_costs(self.parts)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Describe the config's network, or those of all rows of a sweep; print tables, write JSON and Markdown.

    Args:
        config: resolved.
        folder: where describe.json and describe.md go.

    Returns:
        For a single config parameters, FLOPs and bytes of activations; for a sweep the number of rows.
    """
    silence_lightning()
    batch, device = config.job.batch, config.job.device
    rows = progress_bar(experiments.compose_sweep(config).items(), "rows")
    descriptions = [describe(name, row, batch, device) for name, row in rows]
    title = (OmegaConf.select(config, "sweep.title") or config.name) + ", described"
    networks = networks_table(title, descriptions, batch, device)
    forms, parts = forms_table(descriptions, batch), parts_table(descriptions)
    tables = [networks, *([forms] if forms.rows else [])]
    if any(description.form_kind == "attention" for description in descriptions):
        tables.append(attention_example_table())
    tables.append(parts)
    for table in tables if len(descriptions) == 1 or config.job.parts else tables[:-1]:
        table.show()
    write_tables(tables, folder)
    print(f"Written to {os.path.relpath(folder)}/describe.md and .json.")
    if len(descriptions) > 1:
        return {"rows": len(descriptions)}
    cost = descriptions[0].cost
    return {"parameters": cost.parameters, "flops": cost.flops, "activations": cost.activations}


def describe(experiment: str, config: DictConfig, batch: int, device: str) -> Description:
    """Count the costs of one network.

    Args:
        experiment: its name.
        config: resolved.
        batch: images per training step.
        device: the device for which lambda layers choose their methods.
    """
    check_numbers(config)
    images = image_spec(config)
    parts = count_costs(
        lambda: build_model(config, images),
        channels=images.channels,
        image_size=images.size,
        batch=batch,
        device=device,
    )
    with torch.device("meta"):
        model = build_model(config, images)
    note = model.cost_note if isinstance(model, CompositeNetwork) else None
    mixing = mixing_layers(model, images.size)
    kind, form = (None, None) if mixing is None else (mixing[0], closed_form(*mixing, batch))
    return Description(experiment, images.size, parts, form, kind, note)


def networks_table(title: str, descriptions: Sequence[Description], batch: int, device: str) -> Table:
    """Return the costs of whole networks beside the published numbers."""
    table = Table(title, [])
    for description in descriptions:
        table.rows.append(
            {
                "row": row_label(description.experiment),
                "image": f"{description.image_size[0]}²",
                **format_cost(description.cost),
                **{column: format_published(description.experiment, name) for column, name in PUBLISHED.items()},
            }
        )
    columns = ["row", "image", "M parameters", "published M", "GFLOPs", "GFLOPs, paper's order", "published GFLOPs"]
    columns += ["MiB / image", "published top-1", "published gain"]
    published = [column for column in PUBLISHED if any(row[column] for row in table.rows)]
    table.columns = [column for column in columns if column in published or column not in PUBLISHED]
    table.notes += [
        "FLOPs: one image's forward pass, two per multiply-add; by the exact methods that lambda layers choose on "
        f"{device} at batch {batch}, and in the paper's order, which computes all lambdas first.",
        "MiB: float32 activations per image that a training step stores for its backward pass.",
    ]
    table.notes += dict.fromkeys(description.note for description in descriptions if description.note)
    if published:
        numbers = [published_value(each.experiment, name) for each in descriptions for name in PUBLISHED.values()]
        table.notes.append(published_note("Published numbers are the papers'", numbers))
    if "published GFLOPs" in published:
        table.notes.append("Published GFLOPs: as printed; how they are counted is not known to us.")
    if "published gain" in published:
        table.notes.append("Published gain: in top-1, over the baseline of the work that proposed the layer.")
    table.notes += [note for description in descriptions for note in difference_notes(description)]
    return table


def difference_notes(description: Description) -> list[str]:
    """Return why counts differ from the published numbers: those of parameters that differ clearly, and of FLOPs."""
    notes = []
    label, cost = row_label(description.experiment), description.cost
    params, reason = published_value(description.experiment, "params"), row_note(description.experiment)
    millions = cost.parameters / 1e6
    if params and reason and abs(millions - params.value) > max(LARGEST_DIFFERENCE, params.rounding):
        notes.append(f"{label}: {millions:.2f} M counted, {params.value} M published: {reason}")
    flops, reason = published_value(description.experiment, "flops"), row_note(description.experiment, "flops")
    if flops and reason:
        notes.append(f"{label}: {cost.paper_flops / 1e9:.1f} GFLOPs counted, {flops.value} published: {reason}")
    return notes


def forms_table(descriptions: Sequence[Description], batch: int) -> Table:
    """Return the closed forms of the layers that relate positions."""
    columns = ["row", "layers", "time", "space", "G multiply-adds", "GiB", "published GB"]
    table = Table(f"Closed forms, batch {batch}", columns)
    for description in descriptions:
        if description.form:
            published = format_published(description.experiment, "memory")
            table.rows.append({"row": row_label(description.experiment), **description.form, "published GB": published})
    if not any(row["published GB"] for row in table.rows):
        table.columns.remove("published GB")
    table.notes.append(
        "Multiply-adds: one image's products that relate positions. GiB: attention maps in float32, or embeddings "
        "as the paper expands them (Table 4, without the lambdas themselves); ours are not expanded."
    )
    return table


def attention_example_table() -> Table:
    """Return the memory of the attention maps in the paper's introduction, exactly, beside the printed numbers."""
    columns = ["of", "images", "G entries", "float32 GB", "float32 GiB", "bfloat16 GB", "bfloat16 GiB", "printed GB"]
    example = INTRODUCTION_EXAMPLES[0]
    table = Table(f"Introduction: {example.heads} heads on images of {example.side}×{example.side}", columns)
    for maps in INTRODUCTION_EXAMPLES:
        sizes = {"float32": maps.entries * FLOAT, "bfloat16": maps.entries * BFLOAT16}
        table.rows.append(
            {
                "of": maps.source,
                "images": str(maps.batch),
                "G entries": f"{maps.entries / 1e9:.2f}",
                **{f"{dtype} GB": f"{size / 1e9:.1f}" for dtype, size in sizes.items()},
                **{f"{dtype} GiB": f"{size / GIB:g}" for dtype, size in sizes.items()},
                "printed GB": str(maps.printed_gb),
            }
        )
    table.notes.append(
        "Attention maps of one layer have b·h·n² entries, n = 64². The final version's 64 GB are exactly the float32 "
        "maps in GiB. The submission's 32 GB are neither the float32 nor the bfloat16 maps of 256 images; the bfloat16 "
        "maps of 128 images are 32 GiB."
    )
    return table


def parts_table(descriptions: Sequence[Description]) -> Table:
    """Return the costs of each part of each network."""
    columns = ["row", "part", "M parameters", "GFLOPs", "GFLOPs, paper's order", "MiB / image"]
    table = Table("Part by part", columns)
    for description in descriptions:
        label = row_label(description.experiment)
        table.rows += [{"row": label, "part": part, **format_cost(cost)} for part, cost in description.parts.items()]
    return table


def format_cost(cost: ModelCost) -> TableRow:
    return {
        "M parameters": f"{cost.parameters / 1e6:.3f}",
        "GFLOPs": cost.flops / 1e9,
        "GFLOPs, paper's order": cost.paper_flops / 1e9,
        "MiB / image": cost.activations / MIB,
    }


def closed_form(kind: str, layers: list[LayerSizes], batch: int) -> TableRow:
    """Return the closed form's cells for the layers that relate positions."""
    form = FORMS[kind]
    gib = total_memory_gib(kind, layers, batch)
    digits = 5 if gib < 0.01 else 3 if gib < 1 else 2 if gib < 100 else 1
    return {
        "layers": f"{len(layers)} × {form.name}",
        "time": form.time,
        "space": form.space,
        "G multiply-adds": total_multiply_adds(kind, layers) / 1e9,
        "GiB": f"{gib:.{digits}f}".rstrip("0"),
    }


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write describe.md and describe.json."""
    origin = provenance.describe_origin()
    lines = [f"# {tables[0].title}", "", f"{origin['date'][:10]}, `{origin['command']}`", ""]
    for table in tables:
        lines += [f"## {table.title}", "", table.to_markdown()]
    atomic_write(folder / "describe.md", "\n".join(lines))
    document = {"title": tables[0].title, "origin": origin}
    document |= {table.title: {"rows": table.rows, "notes": table.notes} for table in tables}
    atomic_write(folder / "describe.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
