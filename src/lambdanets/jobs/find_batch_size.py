"""job=find_batch_size: how many images fit into memory at once."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning.tuner import Tuner

from lambdanets.errors import UserError
from lambdanets.jobs.build import build_data, build_task, build_trainer
from lambdanets.jobs.console import quiet, show
from lambdanets.jobs.runs import write_metrics

log = logging.getLogger(__name__)
STEPS = 3  # of a trial: optimisers allocate their states in the first one


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Takes some training steps with ever larger batches until memory, or the data, are at an end.

    Args:
        config: resolved.
        folder: where metrics.json goes.

    Returns:
        The batch size, and the learning rate that the recipe's rule gives it on one device.

    Raises:
        UserError: several processes are asked for, or not even the first batch fits.
    """
    quiet()
    if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
        raise UserError("job=find_batch_size looks at one device, as each process has its own: use trainer.devices=1.")
    config.trainer.enable_progress_bar = False
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    task = build_task(config, data, data.classes)
    trainer = build_trainer(config, default_root_dir=folder, logger=False)
    job = config.job
    with limited(job.memory_gib) if trainer.strategy.root_device.type == "cpu" else contextlib.nullcontext():
        found = Tuner(trainer).scale_batch_size(
            task, datamodule=data, mode=job.mode, steps_per_trial=STEPS, init_val=job.start, max_val=job.most
        )
    if not found or found < job.start:
        raise UserError(f"Not even {job.start} images fit into memory: try job.start=1, or a smaller model or image.")
    metrics: dict[str, float] = {"batch_size": found}
    rate, stated_for = config.recipe.optimizer.lr, config.recipe.lr_batch
    if stated_for is not None:
        metrics["lr"] = rate * found * config.trainer.accumulate_grad_batches / stated_for
    write_metrics(folder, metrics)
    show(metrics, title=f"{config.name}: the largest batch of one device, and the rate that the recipe scales to it")
    log.info("Take it with recipe.batch_size=%d", found)
    return metrics


@contextlib.contextmanager
def limited(gib: float | None) -> Iterator[None]:
    """A CPU's memory has no allocator that says when it is full: past the limit, the system ends the process instead.

    Args:
        gib: what the process may take beyond what it has; None for nine tenths of what the machine has free.
    """
    if not sys.platform.startswith("linux"):
        log.info("Memory can't be limited on this system: the search ends at job.most or where the system ends it.")
        yield
        return
    import resource

    free = kibibytes("/proc/meminfo", "MemAvailable") * 0.9 if gib is None else gib * 2**20
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(kibibytes("/proc/self/status", "VmData") + free) * 1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def kibibytes(file: str, name: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise UserError(f"'{file}' doesn't say {name}: give job.memory_gib.")
