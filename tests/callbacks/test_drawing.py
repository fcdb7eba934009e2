"""Tensors as images."""

import pytest
import torch
from torch.nn import functional as F

from lambdanets.callbacks.drawing import (
    GREEN,
    RED,
    add_captions,
    draw_matrix,
    enlarge,
    tile_images,
    to_diverging_colors,
    to_sequential_colors,
)


def test_diverging_colors_are_blue_white_and_red():
    red, green, blue = to_diverging_colors(torch.tensor([[-2.0, 0.0], [1.0, 2.0]]))
    assert (red[0, 1], green[0, 1], blue[0, 1]) == (1, 1, 1)
    assert red[0, 0] < 0.2 < 0.9 < blue[0, 0]
    assert blue[1, 1] < 0.2 < 0.9 < red[1, 1]
    assert green[1, 1] < green[1, 0] < 1  # half of the largest value is paler than it


def test_sequential_colors_darken_from_white():
    colors = to_sequential_colors(torch.tensor([[0.0, 1.0, 2.0]]))
    assert (colors[:, 0, 0] == 1).all()
    assert (colors[:, 0, 1] > colors[:, 0, 2]).all()
    assert to_sequential_colors(torch.zeros(2, 2)).min() == 1


@pytest.mark.parametrize(("side", "factor"), [(35, 5), (3, 1)])
def test_images_are_enlarged_by_nearest_neighbors(side, factor):
    images = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(enlarge(images, side), F.interpolate(images, scale_factor=factor, mode="nearest"))


def test_tiles_have_lines_between_them():
    tiles = tile_images(torch.ones(5, 3, 4, 6), columns=3)
    assert tiles.shape == (3, 2 * (4 + 3) + 3, 3 * (6 + 3) + 3)
    assert (tiles == 1).sum() == 5 * 3 * 4 * 6
    assert (tiles[:, 3:7, 3:9] == 1).all()
    assert not (tiles[:, :, :3] == 1).any()


def test_captions_are_below_their_images():
    images = torch.full((2, 3, 20, 40), 7, dtype=torch.uint8)
    green, red = add_captions(images, [("cat", GREEN), ("dog", RED)])
    assert (green[:, :20] == 7).all()
    red_part, green_part, _ = green[:, 20:].int()
    assert (green_part - red_part).max() > 50
    assert (red_part - green_part).max() == 0
    red_part, green_part, _ = red[:, 20:].int()
    assert (red_part - green_part).max() > 50
    assert (green_part - red_part).max() == 0


def test_a_matrix_has_names_as_long_as_they_are_few():
    few = draw_matrix(torch.eye(3), ["cat", "dog", "owl"])
    cells = few[0, : 3 * 24, -3 * 24 :].unflatten(1, (3, 24)).unflatten(0, (3, 24))
    dark = cells.float().amax((1, 3)) < 128
    assert torch.equal(dark, torch.eye(3, dtype=torch.bool))
    assert (few[:, : 3 * 24, : -3 * 24] < 255).any()  # the names of the rows
    assert (few[:, 3 * 24 :] < 255).any()  # the names of the columns
    many = draw_matrix(torch.eye(100), [""] * 100)
    assert many.shape == (3, 500, 500)
    assert (many[0].float().unflatten(1, (100, 5)).unflatten(0, (100, 5)).amax((1, 3)) < 128).sum() == 100
