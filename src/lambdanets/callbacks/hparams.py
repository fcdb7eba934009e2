"""Config of the run in TensorBoard, in the HParams tab and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

# Columns that the tab has before all others.
FIRST_COLUMNS = ("experiment", "mixer._target_", "model.layout", "recipe.optimizer.lr", "seed")


class HParams(pl.Callback):
    """Write the config when training starts, and declare the scores that the HParams tab can sort runs by.

    The scores' values are those of the scalars that the run logs under the same names.

    Args:
        config: the resolved config, nested.
        scores: names of logged scalars.
    """

    def __init__(self, config: Mapping[str, Any], scores: Sequence[str]) -> None:
        self.config = dict(config)
        self.scores = scores

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                writer = logger.experiment.file_writer
                assert writer is not None
                # TensorBoard reads the scores' values from their own events: only their names matter at this point.
                experiment, *session = hparams(
                    {**flatten_config(self.config), "parameters": parameters}, dict.fromkeys(self.scores, 0.0)
                )
                for summary in (mark_first_columns(experiment), *session):
                    writer.add_summary(summary)
                logger.experiment.add_text("config", "```yaml\n" + OmegaConf.to_yaml(self.config) + "```")


def mark_first_columns(summary: Summary) -> Summary:
    """Mark FIRST_COLUMNS as the keys that differ between runs, which the tab shows before all others."""
    plugin = summary.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in FIRST_COLUMNS
    plugin.content = data.SerializeToString()
    return summary


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Join nested keys by dots and convert the values to types that the tab can show.

    Classes lose their package: `lambdanets.mixers.Conv` becomes `Conv`.
    """
    items: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            items |= flatten_config(value, f"{prefix}{key}.")
        elif key not in ("_partial_", "_convert_"):
            value = value.rpartition(".")[2] if key == "_target_" and isinstance(value, str) else value
            items[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return items
