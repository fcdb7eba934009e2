"""job=doctor: what this machine can run."""

import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lambdanets.atomic import atomic_write
from lambdanets.bolts import import_bolts
from lambdanets.config import experiments
from lambdanets.config.build import build_model, image_spec
from lambdanets.console import silence_lightning
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.errors import UserError
from lambdanets.jobs.find_batch_size import free_memory
from lambdanets.machine import processor_name
from lambdanets.ops import kernel_error
from lambdanets.progress import progress_bar
from lambdanets.reports.published import row_label
from lambdanets.runs import provenance
from lambdanets.table import Row, Table

GIB = 2**30
# Of what a device has free, as the rest goes to workspaces and fragments.
USABLE = 0.85
# Optional packages, what they are for, and the extra that brings them.
PACKAGES = {
    "lightning-bolts": ("LARS, monitors", "bolts"),
    "faster_coco_eval": ("detection's scores", "coco"),
    "timm": ("benchmarks, models in its registry", "bench"),
    "onnxruntime": ("format=onnx", "export"),
    "huggingface_hub": ("pretrained=<user>/<name>", "hub"),
    "hydra_plugins.hydra_joblib_launcher": ("hydra/launcher=joblib", "launchers"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra/launcher=submitit_slurm", "launchers"),
    "hydra_plugins.hydra_optuna_sweeper": ("sweep=tune", "launchers"),
    "hydra_plugins.hydra_ray_launcher": ("hydra/launcher=ray", "ray"),
}


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Tries what a training may ask for, and counts what each row of a table needs; prints tables, writes doctor.json.

    Args:
        config: resolved.
        folder: where the file goes.

    Returns:
        The number of GPUs, and of things that were tried and are missing.
    """
    silence_lightning()
    machine, tried, rows = about(folder), attempts(), batches(config)
    for table in (machine, tried, rows):
        table.show()
    document = {table.title: table.rows for table in (machine, tried, rows)} | {"origin": provenance.origin()}
    atomic_write(folder / "doctor.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"Written to {os.path.relpath(folder)}/doctor.json.")
    return {"gpus": torch.cuda.device_count(), "missing": sum(row["here"] == "no" for row in tried.rows)}


def about(folder: Path) -> Table:
    """Devices, memory, versions."""
    facts = {
        "system": platform.platform(),
        "processor": f"{processor_name()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads",
        "memory": f"{memory_gib():.1f} GiB free",
        "disk": f"{shutil.disk_usage(existing(folder)).free / GIB:.0f} GiB free for outputs",
        "Python, torch": f"{platform.python_version()}, {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
    }
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        facts[f"GPU {index}"] = (
            f"{found.name}, {found.total_memory / GIB:.0f} GiB, capability {found.major}.{found.minor}"
        )
    if not torch.cuda.is_available():
        facts["GPU"] = "none: trainings run on the CPU"
    return Table("This machine", ["what", "found"], [{"what": what, "found": found} for what, found in facts.items()])


def attempts() -> Table:
    """What was tried, and what to do where it failed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tries: dict[str, tuple[Callable[[], str | None], str]] = {
        "the lambda layer's kernel": (kernel_error, "a C compiler: apt-get install gcc; other methods stand in"),
        f"trainer.precision=bf16-mixed on {device}": (lambda: trains(device, torch.bfloat16), "use 32-true"),
        "trainer.precision=16-mixed": (lambda: trains(device, torch.float16, gpu=True), "use bf16-mixed, or a GPU"),
        "compile=true": (compilers, "a C++ compiler: apt-get install g++"),
        "decoding JPEG and PNG": (decodes, "install torchvision for this torch"),
        "trainer=ddp, fsdp, torchrun": (communicates, "a torch with torch.distributed"),
        "trainer=slurm": (lambda: None if shutil.which("srun") else "there is no srun", "run it on a SLURM cluster"),
    }
    table = Table("What was tried", ["what", "here", "otherwise"])
    for what, (attempt, advice) in tries.items():
        wrong = attempted(attempt)
        table.rows.append({"what": what, "here": "no" if wrong else "yes", "otherwise": wrong and f"{wrong}; {advice}"})
    for module, (purpose, extra) in PACKAGES.items():
        wrong = attempted(partial(absent, module))
        advice = f"pip install -e '.[{extra}]'"
        table.rows.append({"what": purpose, "here": "no" if wrong else "yes", "otherwise": wrong and advice})
    return table


def attempted(attempt: Callable[[], str | None]) -> str | None:
    """What is wrong, in some words, or None."""
    try:
        return attempt()
    except Exception as error:
        return " ".join(str(error).split())[:120] or type(error).__name__


def trains(device: torch.device, precision: torch.dtype, *, gpu: bool = False) -> str | None:
    if gpu and device.type != "cuda":
        return "there is no GPU"
    x = torch.randn(2, 8, 8, 8, device=device, requires_grad=True)
    layer = nn.Conv2d(8, 8, 3).to(device)
    with torch.autocast(device.type, precision):
        layer(x).float().sum().backward()
    assert x.grad is not None
    return None if torch.isfinite(x.grad).all() else "its gradients aren't finite"


def compilers() -> str | None:
    return None if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") else "there is no C++ compiler"


def decodes() -> str | None:
    from torchvision.io import decode_image, encode_jpeg, encode_png

    picture = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    for encode in (encode_jpeg, encode_png):
        if decode_image(encode(picture)).shape != picture.shape:
            return "a picture came back in another size"
    return None


def communicates() -> str | None:
    if not torch.distributed.is_available():
        return "torch has none"
    distributed = torch.distributed
    wanted = distributed.is_nccl_available() if torch.cuda.is_available() else distributed.is_gloo_available()
    return None if wanted else "the backend for these devices is missing"


def absent(module: str) -> str | None:
    if module == "lightning-bolts":  # which imports after some preparation only
        import_bolts("callbacks.data_monitor")
    else:
        importlib.import_module(module)
    return None


def batches(config: DictConfig) -> Table:
    """The largest batch of each row that a training step fits into the device's memory, as counted, not as tried."""
    free, place = device_memory()
    sweep = config.job.sweep
    rows = experiments.rows(config) if config.get("sweep") else rows_of(sweep)
    table = Table(f"Batches in {free / GIB:.1f} GiB of {place}", ["row", "image", "MiB / image", "fixed MiB", "batch"])
    for name, row in progress_bar(rows.items(), "rows"):
        try:
            images = image_spec(row)
            parts = count_costs(
                lambda row=row, images=images: build_model(row, images),  # type: ignore[misc]
                channels=images.channels,
                image_size=images.size,
                batch=8,
                device="cuda" if torch.cuda.is_available() else "cpu",
            )
        except UserError as error:
            table.notes.append(f"{name}: {error}")
            continue
        table.rows.append({"row": row_label(name), "image": f"{images.size[0]}²", **needs(sum_costs(parts), free)})
    table.notes.append(
        "Counted: what a training step keeps of an image in float32, and weights, gradients and two optimiser states; "
        f"{USABLE:.0%} of the memory is used. job=find_batch_size tries it."
    )
    return table


def needs(cost: ModelCost, free: float) -> Row:
    fixed = 4 * 4 * cost.parameters
    batch = int(max(0.0, USABLE * free - fixed) // cost.activations)
    return {"MiB / image": cost.activations / 2**20, "fixed MiB": fixed / 2**20, "batch": str(batch)}


def rows_of(sweep: str) -> dict[str, DictConfig]:
    """The rows of a sweep, by name."""
    names = OmegaConf.select(compose("config", overrides=[f"sweep={sweep}"]), "sweep.experiments")
    return {name: experiments.row(name, experiments.overrides()) for name in names}


def device_memory() -> tuple[float, str]:
    """Bytes that are free, and of what."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    return GIB * memory_gib(), "main memory"


def memory_gib() -> float:
    return free_memory() / GIB


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
