"""Double attention against its definition."""

import torch

from lambdanets.mixers import DoubleAttention
from tests.mixers.comparison import apply_norm, compare, matrix, random_images, randomize_norm
from tests.reference.linear_attention import double_attention


def test_double_attention():
    torch.manual_seed(0)
    block = randomize_norm(DoubleAttention(12, ratio=3))
    x = random_images(12, (3, 5))
    weights = [matrix(conv) for conv in (block.features, block.gather, block.distribute, block.out)]
    expected = [
        image + apply_norm(double_attention(image.reshape(12, -1), *weights), block.norm).reshape(image.shape)
        for image in x.numpy()
    ]
    compare(block, x, expected)
