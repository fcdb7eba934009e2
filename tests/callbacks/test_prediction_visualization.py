"""Images with predictions, and the table of the worst classes."""

import torch

from lambdanets.callbacks.prediction_visualization import draw_predictions, worst_classes_table


def test_wrong_predictions_have_red_captions():
    pixels = torch.zeros(2, 3, 48, 48, dtype=torch.uint8)
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    image = draw_predictions(pixels, logits, torch.tensor([0, 1]), ["cat", "dog"])

    red, green, _ = image
    _, green_columns = torch.where(green - red > 0.2)
    _, red_columns = torch.where(red - green > 0.2)
    assert 0 < green_columns.min() < green_columns.max() < image.shape[2] / 2 < red_columns.min()


def test_the_table_has_the_worst_classes_first_and_their_commonest_error():
    confusion = torch.tensor([[9, 1, 0], [2, 2, 0], [0, 0, 0]])
    lines = worst_classes_table(confusion, ["cat", "dog", "owl"]).splitlines()[2:]
    assert lines == ["| dog | 4 | 50.0% | cat (2) |", "| cat | 10 | 90.0% | dog (1) |"]
