"""Images with predictions, and the table of the worst classes."""

import torch

from lambdanets.callbacks.drawing import GREEN, RED
from lambdanets.callbacks.prediction_visualization import draw_predictions, worst_classes_table


def test_wrong_predictions_have_red_captions():
    pixels = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    image = draw_predictions(pixels, logits, torch.tensor([0, 1]), ["cat", "dog"])

    def columns(color):
        distance = (image * 255 - torch.tensor(color)[:, None, None]).abs().amax(0)
        return torch.where(distance < 0.5)[1]

    middle = image.shape[2] / 2
    assert 0 < columns(GREEN).min() < columns(GREEN).max() < middle
    assert middle < columns(RED).min()


def test_the_table_has_the_worst_classes_first_and_their_commonest_error():
    confusion = torch.tensor([[9, 1, 0], [2, 2, 0], [0, 0, 0]])
    lines = worst_classes_table(confusion, ["cat", "dog", "owl"]).splitlines()[2:]
    assert lines == ["| dog | 4 | 50.0% | cat (2) |", "| cat | 10 | 90.0% | dog (1) |"]
