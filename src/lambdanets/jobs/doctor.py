"""job=doctor: check which features work on this machine and which batches fit."""

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
from lambdanets.bolts import BOLTS_COMMAND, import_bolts
from lambdanets.config import experiments
from lambdanets.config.build import build_model, image_spec
from lambdanets.console import silence_lightning
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.errors import UserError
from lambdanets.machine import available_memory, processor_name, usable_cores
from lambdanets.ops import kernel_error, triton_error
from lambdanets.progress import progress_bar
from lambdanets.reports.published import row_label
from lambdanets.runs import provenance
from lambdanets.table import Table, TableRow

GIB = 2**30
# Part of the free memory that batches may fill; the rest is for workspaces and fragmentation.
USABLE_MEMORY = 0.85
# Optional packages: module, then purpose and the extra that installs it.
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
    """Check this machine and estimate the largest batch of each row of a sweep; print tables and write doctor.json.

    Args:
        config: resolved config.
        folder: output folder.

    Returns:
        The number of GPUs, and of failed checks.
    """
    silence_lightning()
    machine, check_results, batches = machine_info(folder), run_checks(), largest_batches(config)
    for table in (machine, check_results, batches):
        table.show()
    tables = {table.title: table.rows for table in (machine, check_results, batches)}
    document = {**tables, "origin": provenance.describe_origin()}
    atomic_write(folder / "doctor.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"Written to {os.path.relpath(folder)}/doctor.json.")
    return {"gpus": torch.cuda.device_count(), "missing": sum(row["available"] == "no" for row in check_results.rows)}


def machine_info(folder: Path) -> Table:
    """Return a table of the machine's devices, memory and versions."""
    memory = available_memory()
    properties = {
        "system": platform.platform(),
        "processor": f"{processor_name()}, {usable_cores()} of {os.cpu_count()} cores usable, torch uses "
        f"{torch.get_num_threads()} threads",
        "memory": "unknown" if memory is None else f"{memory / GIB:.1f} GiB free",
        "disk": f"{shutil.disk_usage(nearest_existing(folder)).free / GIB:.0f} GiB free for outputs",
        "Python, torch": f"{platform.python_version()}, {torch.__version__}, CUDA {torch.version.cuda or 'none'}",
    }
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        properties[f"GPU {index}"] = f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, capability {gpu.major}.{gpu.minor}"
    if not torch.cuda.is_available():
        properties["GPU"] = "none: training runs on the CPU"
    rows: list[TableRow] = [{"property": name, "value": value} for name, value in properties.items()]
    return Table("This machine", ["property", "value"], rows)


def run_checks() -> Table:
    """Return a table of features, whether they work on this machine, and advice where they do not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks: dict[str, tuple[Callable[[], str | None], str]] = {
        "the lambda layer's kernel": (kernel_error, "install a C compiler (apt-get install gcc), or use other methods"),
        "the lambda layer's programs for a GPU": (triton_error, "other methods are used"),
        f"trainer.precision=bf16-mixed on {device}": (
            lambda: check_precision(device, torch.bfloat16),
            "use trainer.precision=32-true",
        ),
        "trainer.precision=16-mixed": (
            lambda: check_precision(device, torch.float16) if device.type == "cuda" else "no GPU",
            "use bf16-mixed, or a GPU",
        ),
        "compile=true": (check_cpp_compiler, "install a C++ compiler (apt-get install g++)"),
        "decoding JPEG and PNG": (check_image_decoding, "install the torchvision release for this torch"),
        "trainer=ddp, fsdp, torchrun": (check_distributed, "install a torch build with torch.distributed"),
        "trainer=slurm": (lambda: None if shutil.which("srun") else "srun not found", "run it on a SLURM cluster"),
    }
    table = Table("Checks", ["check", "available", "advice"])
    for check, (function, advice) in checks.items():
        error = failure_of(function)
        available = "no" if error else "yes"
        table.rows.append({"check": check, "available": available, "advice": error and f"{error}; {advice}"})
    for module, (purpose, extra) in PACKAGES.items():
        error = failure_of(partial(check_package, module))
        available = "no" if error else "yes"
        table.rows.append({"check": purpose, "available": available, "advice": error and install_command(extra)})
    return table


def install_command(extra: str) -> str:
    """Return the command that installs an extra; pip alone refuses lightning-bolts beside a new Lightning."""
    return BOLTS_COMMAND if extra == "bolts" else f"pip install -e '.[{extra}]'"


def failure_of(check: Callable[[], str | None]) -> str | None:
    """Return a short description of a check's failure, or None if it passes."""
    try:
        return check()
    except Exception as error:
        return " ".join(str(error).split())[:120] or type(error).__name__


def check_precision(device: torch.device, precision: torch.dtype) -> str | None:
    x = torch.randn(2, 8, 8, 8, device=device, requires_grad=True)
    layer = nn.Conv2d(8, 8, 3).to(device)
    with torch.autocast(device.type, precision):
        layer(x).float().sum().backward()
    assert x.grad is not None
    return None if torch.isfinite(x.grad).all() else "gradients are not finite"


def check_cpp_compiler() -> str | None:
    return None if shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++") else "no C++ compiler"


def check_image_decoding() -> str | None:
    from torchvision.io import decode_image, encode_jpeg, encode_png

    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    for encode in (encode_jpeg, encode_png):
        if decode_image(encode(image)).shape != image.shape:
            return "a decoded image has another size"
    return None


def check_distributed() -> str | None:
    if not torch.distributed.is_available():
        return "this torch has no torch.distributed"
    if torch.cuda.is_available():
        return None if torch.distributed.is_nccl_available() else "this torch has no NCCL"
    return None if torch.distributed.is_gloo_available() else "this torch has no gloo"


def check_package(module: str) -> str | None:
    if module == "lightning-bolts":  # cannot be imported without an alias
        import_bolts("callbacks.data_monitor")
    else:
        importlib.import_module(module)
    return None


def largest_batches(config: DictConfig) -> Table:
    """Return a table of the largest training batch of each row that fits into the device's memory, by estimate."""
    free, device = device_memory()
    rows = experiments.compose_sweep(config) if config.get("sweep") else compose_rows(config.job.sweep)
    table = Table(f"Batches in {free / GIB:.1f} GiB of {device}", ["row", "image", "MiB / image", "fixed MiB", "batch"])
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
        batch = largest_batch(sum_costs(parts), free)
        table.rows.append({"row": row_label(name), "image": f"{images.size[0]}²", **batch})
    table.notes.append(
        "Estimated from the float32 activations that a training step keeps per image, and from weights, gradients and "
        f"two optimizer states; {USABLE_MEMORY:.0%} of the free memory is used. job=find_batch_size measures it."
    )
    return table


def largest_batch(cost: ModelCost, free: float) -> TableRow:
    """Return the memory per image, the memory of weights and optimizer, and the number of images that fit.

    Args:
        cost: cost of one image.
        free: free memory in bytes.
    """
    fixed = 4 * 4 * cost.parameters
    batch = int(max(0.0, USABLE_MEMORY * free - fixed) // cost.activations)
    return {"MiB / image": cost.activations / 2**20, "fixed MiB": fixed / 2**20, "batch": str(batch)}


def compose_rows(sweep: str) -> dict[str, DictConfig]:
    """Compose the config of each row of a sweep, by name."""
    names = OmegaConf.select(compose("config", overrides=[f"sweep={sweep}"]), "sweep.experiments")
    return {name: experiments.compose_experiment(name, experiments.row_overrides()) for name in names}


def device_memory() -> tuple[float, str]:
    """Return the free memory of the training device in bytes, and the device's name.

    Raises:
        UserError: there is no GPU, and the system does not report its free memory.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    memory = available_memory()
    if memory is None:
        raise UserError("job=doctor cannot estimate batches: this system does not report its free memory.")
    return float(memory), "main memory"


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
