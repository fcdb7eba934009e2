"""Config of the run in TensorBoard."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import HParams


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_tab_has_values_of_the_config_and_the_scores(tmp_path):
    values = {
        "seed": 3,
        "mixer._target_": "lambdanets.mixers.Conv",
        "mixer._partial_": True,
        "model.layout": "CCLL",
        "model.strides": [1, 2],
        "ckpt": None,
    }
    callback = HParams("seed: 3\n", values, ["test/top1"])
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[callback], logger=TensorBoardLogger(tmp_path, name="", version=""),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(1, 3))))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    contents = {tag: metadata.plugin_data.content for tag, metadata in events.summary_metadata.items()}
    start = HParamsPluginData.FromString(contents["_hparams_/session_start_info"]).session_start_info
    hparams = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert hparams == {
        "seed": 3, "mixer._target_": "Conv", "model.layout": "CCLL", "model.strides": "[1, 2]", "ckpt": "None",
        "parameters": 3 * 2 + 2,
    }  # fmt: skip
    experiment = HParamsPluginData.FromString(contents["_hparams_/experiment"]).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["test/top1"]
    first = {info.name for info in experiment.hparam_infos if info.differs}
    assert first == {"seed", "mixer._target_", "model.layout"}
    (text,) = events.Tensors("config/text_summary")
    assert b"seed: 3" in text.tensor_proto.string_val[0]
