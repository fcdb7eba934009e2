"""Effective receptive fields against those of networks where they are known."""

import pytest
import torch
from torch import nn

from lambdanets.callbacks.receptive_field_visualization import half_mass_side, receptive_fields


class TwoConvolutions(nn.Module):
    """Two stages of 3 × 3 convolutions with all weights one."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(2)])
        for stage in self.stages:
            nn.init.ones_(stage.weight)

    def features(self, x):
        first = self.stages[0](x)
        return [first, self.stages[1](first)]


def test_fields_of_convolutions_are_products_of_binomials():
    one, two = receptive_fields(TwoConvolutions(), torch.randn(3, 1, 9, 9))
    profile = torch.zeros(9)
    profile[2:7] = torch.tensor([1.0, 2, 3, 2, 1])
    torch.testing.assert_close(two, profile[:, None] * profile[None])
    assert one.sum() == 9
    # The nine pixels next to the middle hold all of the first field, and 49 of 81 parts of the second.
    assert half_mass_side(one) == half_mass_side(two) == pytest.approx(2 / 9)


def test_side_of_the_square_that_holds_half_of_a_field():
    assert half_mass_side(torch.ones(9, 9)) == pytest.approx(6 / 9)
    assert half_mass_side(torch.zeros(9, 9)) == 0
