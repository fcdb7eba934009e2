"""job=test: score a checkpoint on the test split."""

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from lambdanets.callbacks import EndOnSignal
from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.data import ImageData, ImageFolder
from lambdanets.data.corrupt import count_corrupt_images, read_names
from lambdanets.distributed.launcher import rank
from lambdanets.errors import UserError
from lambdanets.jobs.fit import CORRUPT
from lambdanets.runs.checkpoints import check_classes, check_state_dict, has_global_tables, read_checkpoint
from lambdanets.runs.folders import write_metrics


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Test the checkpoint config.ckpt; the scores equal those at the end of its training.

    Args:
        config: resolved.
        folder: output folder of metrics.json, and of corrupt.txt if images are left out.

    Returns:
        The test scores, and the number of corrupt images if there are any.

    Raises:
        UserError: no checkpoint is named, it does not match the model or the data's classes, or the data have no test
            split.
    """
    silence_lightning()
    if config.ckpt is None:
        raise UserError("job=test needs a checkpoint: ckpt=<run's folder>, <file>, <published weights> or last.")
    metrics = score_checkpoint(config, folder)
    if rank() == 0:
        write_metrics(folder, metrics)
        print_metrics(metrics, title=str(config.ckpt))
    return metrics


def score_checkpoint(config: DictConfig, folder: Path) -> dict[str, float]:
    """Return the test scores of the checkpoint config.ckpt, in the precision and the batches of the config.

    Args and errors as of `run`, which writes them.
    """
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    if not data.has_test:
        raise UserError("The data have no test split: there is no folder 'test' below data.root.")
    with tempfile.TemporaryDirectory() as temporary:
        data.corrupt.file = Path(temporary, CORRUPT)  # workers that load a split into memory share it
        load_test_split(data, checkpoint["labels"]["classes"], config.ckpt)
        data.corrupt.names |= read_names(data.corrupt.file)
        data.corrupt.file = None
    task = build_task(config, data, data.classes)
    resize = has_global_tables(checkpoint["config"])
    check_state_dict(task, checkpoint["state_dict"], config.ckpt, resize=resize)
    task.load_state_dict(checkpoint["state_dict"])
    trainer = build_trainer(config, logger=False, callbacks=[EndOnSignal()], default_root_dir=folder)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        data.corrupt.start_file(folder / CORRUPT)
    else:
        data.corrupt.file = folder / CORRUPT
    trainer.test(task, datamodule=data, verbose=False)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if corrupt_images := count_corrupt_images(folder / CORRUPT):
        metrics["corrupt_images"] = corrupt_images
    return metrics


def load_test_split(data: ImageData, trained: list[str], ckpt: str) -> None:
    """Load the test split, whose classes must be those of the checkpoint.

    Args:
        data: the data module.
        trained: names of the checkpoint's classes.
        ckpt: the checkpoint, for messages.

    Raises:
        UserError: the classes differ.
    """
    if isinstance(data, ImageFolder):
        try:
            data.restore_classes(trained)
        except UserError:  # the test split alone, without training folders
            data.classes = trained
    data.prepare_data()
    data.setup("test")
    check_classes(data.classes, trained, ckpt)
