"""Scores of classification against scikit-learn's, and its predictions."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from lambdanets.errors import UserError
from lambdanets.tasks import Classification


class Identity(torch.nn.Module):
    """A model whose input is its output."""

    def forward(self, x):
        return x


def classification(classes):
    return Classification(Identity(), num_classes=classes, optimizer=torch.optim.SGD, batch_size=8)


@pytest.mark.parametrize("classes", [3, 12])
def test_scores_over_uneven_batches_equal_those_of_scikit_learn(classes):
    torch.manual_seed(0)
    task = classification(classes)
    logits, labels = torch.randn(41, classes), torch.randint(classes, (41,))
    labels[:classes] = torch.arange(classes)
    for batch in zip(logits.split(8), labels.split(8), strict=True):
        task.evaluate(batch, task.val_metrics)
    scores = {name: value.item() for name, value in task.val_metrics.compute().items()}
    probabilities = logits.double().softmax(-1).numpy()
    all_labels = range(classes)
    assert scores["val/loss"] == pytest.approx(log_loss(labels, probabilities, labels=all_labels), rel=1e-5)
    assert scores["val/top1"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=1, labels=all_labels))
    expected = top_k_accuracy_score(labels, probabilities, k=5, labels=all_labels) if classes > 5 else 1.0
    assert scores["val/top5"] == pytest.approx(expected)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="The data have 1 class, and a classifier needs two or more"):
        classification(1)


def test_the_confusion_matrix_counts_guesses_per_true_class():
    task = classification(3)
    logits = torch.eye(3)[[0, 1, 1, 2, 0]]
    task.evaluate((logits, torch.tensor([0, 1, 0, 2, 2])), task.val_confusion)
    assert task.confusion is None  # until the end of a validation
    task.on_validation_epoch_end()
    assert task.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_thousands_of_classes_have_no_confusion_matrix():
    task = classification(2001)
    assert task.val_confusion is None
    task.evaluate((torch.eye(3, 2001), torch.tensor([0, 1, 2])), task.val_metrics)
    task.on_validation_epoch_end()
    assert task.confusion is None


def test_a_process_without_images_takes_part_in_the_passes_of_fsdp(monkeypatch):
    task = classification(3)
    sizes = []
    task.model.register_forward_hook(lambda model, inputs, output: sizes.append(tuple(output.shape)))
    batch = (torch.empty(0, 3, 1, 1), torch.empty(0, dtype=torch.long))
    task.evaluate(batch, task.val_metrics)
    assert sizes == []
    monkeypatch.setattr("lambdanets.tasks.classification.FSDPModule", Identity)
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(channels=3, image_size=(8, 6)))
    task.evaluate(batch, task.val_metrics)
    assert sizes == [(1, 3, 8, 6)]


def test_a_batch_of_corrupt_images_only_changes_nothing():
    task = classification(3)
    task.evaluate((torch.eye(3), torch.tensor([0, 1, 0])), task.val_metrics)
    task.evaluate((torch.empty(0, 3), torch.empty(0, dtype=torch.long)), task.val_metrics)
    assert task.val_metrics.compute()["val/top1"].item() == pytest.approx(2 / 3)


def test_predictions_are_the_likeliest_classes(tmp_path, capsys):
    task, classes = classification(3), ["ant", "bee", "cat"]
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    probabilities = task.predict_step((logits, None))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    options = {"top": 2, "threshold": 0.5}
    counts = task.write_predictions(files, probabilities, tmp_path, labels={"classes": classes}, options=options)
    assert counts == {"images": 2}
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [entry["file"] for entry in entries] == [str(file) for file in files]
    assert [[guess["name"] for guess in entry["classes"]] for entry in entries] == [["bee", "cat"], ["ant", "bee"]]
    # e² / (1 + e² + e) and 1 / (1 + e² + e) of the first image
    interpreted = task.interpret(logits[:1], classes, top=5)
    assert [name for name, _ in interpreted] == ["bee", "cat", "ant"]
    assert interpreted[0][1] == pytest.approx(0.6652, abs=1e-4)
    assert entries[0]["classes"][0]["probability"] == interpreted[0][1]
    assert "66.5%" in capsys.readouterr().out


def test_predictions_are_stored_even_if_nobody_reads_the_output(tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError("closed")

    monkeypatch.setattr(sys, "stdout", Closed())
    options = {"top": 1, "threshold": 0.5}
    with pytest.raises(OSError, match="closed"):
        classification(2).write_predictions(
            [tmp_path / "1.png"], torch.tensor([[0.3, 0.7]]), tmp_path, labels={"classes": ["a", "b"]}, options=options
        )
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    assert entry["classes"][0]["name"] == "b"
