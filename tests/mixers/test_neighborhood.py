"""Properties of the layers on a local neighborhood."""

import torch

from lambdanets.mixers import LocalAttention, LocalRelation


def test_local_attention_is_translation_equivariant():
    torch.manual_seed(0)
    for layer in (LocalAttention(8, scope=3, heads=2), LocalRelation(8, scope=3)):
        layer = layer.double()
        x = torch.zeros(1, 8, 20, 20, dtype=torch.float64)
        x[..., 5:9, 6:11] = torch.randn(1, 8, 4, 5, dtype=torch.float64)
        moved = x.roll((3, 4), (2, 3))
        torch.testing.assert_close(layer(moved)[..., 4:, 5:], layer(x).roll((3, 4), (2, 3))[..., 4:, 5:])
