"""How often visualizations run, and that training is not affected by them."""

import copy
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

import lambdanets
from lambdanets.callbacks import MovingAverage
from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization, evaluation_mode
from lambdanets.callbacks.lambda_visualization import layer_inputs, query_maps
from lambdanets.callbacks.receptive_field_visualization import receptive_fields


class SlowEpochs(pl.LightningModule):
    """A task whose epochs, of one step each, take ten seconds of a clock."""

    def __init__(self, clock):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock[0] += 10.0
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Drawing(BudgetedVisualization):
    """A visualization that takes two seconds of a clock."""

    def __init__(self, clock, time_budget):
        super().__init__(time_budget)
        self.clock = clock
        self.times = []

    def draw(self, writer, trainer, task):
        assert not task.layer.training
        assert not torch.is_grad_enabled()
        self.times.append(self.clock[0])
        writer.add_scalar("drawing", len(self.times), trainer.global_step)
        self.clock[0] += 2.0


def train(folder, monkeypatch, *, epochs, time_budget, logger=True):
    clock = [0.0]
    monkeypatch.setattr(
        "lambdanets.callbacks.budgeted_visualization.time", SimpleNamespace(perf_counter=lambda: clock[0])
    )
    callback, task = Drawing(clock, time_budget), SlowEpochs(clock)
    loader = DataLoader(TensorDataset(torch.ones(1, 1)))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback], enable_checkpointing=False,
        logger=TensorBoardLogger(folder, name="", version="") if logger else False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    return callback, task


def test_the_time_of_visualizations_stays_within_the_budget(tmp_path, monkeypatch):
    callback, task = train(tmp_path, monkeypatch, epochs=100, time_budget=0.01)
    *during, last = callback.times
    # The first one is expected to take 0.1 s, 1 % of ten seconds. From then on each one may begin when it and those
    # before it take 1 % of the time: the second after 400 s, the third after 600 s, and so on.
    assert during == [10.0, 402.0, 604.0, 806.0]
    for count, start in enumerate(during[1:], 2):
        assert 2.0 * count <= 0.01 * start
        assert start - 10.0 < 200.0 * count  # an epoch before it, the budget was too small
    assert last == 100 * 10.0 + 2.0 * len(during)  # one more after training
    assert all(module.training for module in task.modules())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("drawing")] == [1, 40, 60, 80, 100]


def test_a_visualization_of_the_last_step_is_not_repeated(tmp_path, monkeypatch):
    callback, _ = train(tmp_path, monkeypatch, epochs=3, time_budget=1.0)
    assert len(callback.times) == 3


class Validated(BudgetedVisualization):
    """A visualization that notes the weight which it sees, and that of the validation before it."""

    def __init__(self):
        super().__init__(time_budget=1e9)
        self.weights = []

    def on_validation_batch_start(self, trainer, pl_module, *args):
        super().on_validation_batch_start(trainer, pl_module, *args)
        self.validated_weight = pl_module.layer[0].weight.item()

    def draw(self, writer, trainer, task):
        self.weights.append((task.layer[0].weight.item(), self.validated_weight))


def test_averaged_weights_are_drawn_where_they_are_validated(tmp_path):
    callback, task, loader = Validated(), SlowEpochs([0.0]), DataLoader(TensorDataset(torch.ones(4, 1)))
    trained = task.layer[0].weight.item()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[callback, MovingAverage(0.9)], enable_checkpointing=False,
        logger=TensorBoardLogger(tmp_path, name="", version=""), log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, loader, loader)
    assert len(callback.weights) >= 3
    assert len(set(callback.weights)) == 3  # one per epoch
    assert all(drawn == validated != trained for drawn, validated in callback.weights)
    assert task.layer[0].weight.item() == callback.weights[-1][0]


def test_nothing_is_drawn_without_tensorboard(tmp_path, monkeypatch):
    callback, _ = train(tmp_path, monkeypatch, epochs=3, time_budget=1.0, logger=False)
    assert callback.times == []


@pytest.fixture
def network():
    torch.manual_seed(0)
    return lambdanets.create("tiny", mixer="lambda", image_size=8, in_channels=1, num_classes=10)


def test_visualizations_leave_the_network_unchanged(network):
    network.train()
    network.stem.eval()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    with evaluation_mode(network), torch.no_grad():
        assert not any(module.training for module in network.modules())
        receptive_fields(network, torch.randn(2, 1, 8, 8))
        for _, layer, x in layer_inputs(network, torch.randn(2, 1, 8, 8)):
            query_maps(layer, x[:1])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


class Undrawn(BudgetedVisualization):
    """A visualization that draws nothing."""

    def draw(self, writer, trainer, task):
        pass


@pytest.mark.parametrize(
    ("batch_sizes", "count", "expected"),
    [
        ([4, 4, 4, 2], 4, [0, 4, 8, 12]),
        ([4, 4], 4, [0, 2, 4, 6]),
        ([4, 1], 6, [0, 1, 2, 4]),  # the last batch has one image only
        ([5], 16, [0, 1, 2, 3, 4]),
        ([2] * 9, 3, [0, 6, 12]),
    ],
)
def test_images_come_from_the_whole_split(batch_sizes, count, expected):
    callback = Undrawn(count=count)
    trainer = SimpleNamespace(num_val_batches=[len(batch_sizes)])
    numbers = torch.arange(sum(batch_sizes))
    for _ in range(2):  # a second validation begins anew
        for index, labels in enumerate(numbers.split(batch_sizes)):
            callback.on_validation_batch_start(trainer, None, (torch.zeros(len(labels), 1, 8, 8), labels), index)
    assert len(callback.images) == len(expected)
    assert [label.item() for label in callback.labels] == expected
