"""The run's config in TensorBoard: in the HParams tab, and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

# What the tab is to show of a run at first.
FIRST = ("experiment", "mixer._target_", "model.layout", "recipe.optimizer.lr", "seed")


class HParams(pl.Callback):
    """Writes the config at the start of training and names the scores that the tab can sort runs by.

    The scores themselves are the scalars of the same name that the run logs, at the latest the test score at its end.

    Args:
        config: the resolved config, nested.
        scores: names of logged scalars.
    """

    def __init__(self, config: Mapping[str, Any], scores: Sequence[str]) -> None:
        self.nested = dict(config)
        self.config = flat(config)
        self.scores = scores

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                writer = logger.experiment.file_writer
                assert writer is not None
                # The scalars' values are read from their own events: only their names matter here.
                experiment, *session = hparams(
                    {**self.config, "parameters": parameters}, dict.fromkeys(self.scores, 0.0)
                )
                for summary in (with_first(experiment), *session):
                    writer.add_summary(summary)
                logger.experiment.add_text("config", "```yaml\n" + OmegaConf.to_yaml(self.nested) + "```")


def with_first(summary: Summary) -> Summary:
    """Marks the keys of FIRST as those that differ from run to run, which the tab puts before all others."""
    plugin = summary.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in FIRST
    plugin.content = data.SerializeToString()
    return summary


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested keys joined by dots, values as the tab can show them: a class by its own name."""
    items: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            items |= flat(value, f"{prefix}{key}.")
        elif key not in ("_partial_", "_convert_"):
            shown = value.rpartition(".")[2] if key == "_target_" and isinstance(value, str) else value
            items[f"{prefix}{key}"] = shown if isinstance(shown, bool | int | float | str) else str(shown)
    return items
