"""Config of the run in TensorBoard, in the HParams tab and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
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
        text: the config as yaml.
        values: the config's values by dotted keys.
        scores: names of logged scalars.
    """

    def __init__(self, text: str, values: Mapping[str, Any], scores: Sequence[str]) -> None:
        self.text = text
        self.values = values
        self.scores = scores

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                writer = logger.experiment.file_writer
                assert writer is not None
                # TensorBoard reads the scores' values from their own events: only their names matter at this point.
                experiment, *session = hparams(
                    {**to_hparams(self.values), "parameters": parameters}, dict.fromkeys(self.scores, 0.0)
                )
                for summary in (mark_first_columns(experiment), *session):
                    writer.add_summary(summary)
                logger.experiment.add_text("config", f"```yaml\n{self.text}```")


def mark_first_columns(summary: Summary) -> Summary:
    """Mark FIRST_COLUMNS as the keys that differ between runs, which the tab shows before all others."""
    plugin = summary.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in FIRST_COLUMNS
    plugin.content = data.SerializeToString()
    return summary


def to_hparams(values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Convert a config's values to types that the tab can show.

    Classes lose their package: `lambdanets.mixers.Conv` becomes `Conv`.
    """
    items: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        name = key.rpartition(".")[2]
        if name in ("_partial_", "_convert_"):
            continue
        if name == "_target_":
            value = str(value).rpartition(".")[2]
        items[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return items
