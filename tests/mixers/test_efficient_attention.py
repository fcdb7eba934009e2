"""Efficient attention against its definition."""

import numpy as np
import torch

from lambdanets.mixers import EfficientAttention
from tests.mixers.comparison import apply_norm, compare, matrix, random_images, randomize_norm
from tests.reference.linear_attention import efficient_attention


def test_efficient_attention():
    torch.manual_seed(0)
    block = randomize_norm(EfficientAttention(12, ratio=2, heads=3))
    x = random_images(12, (3, 5))
    query, key, value = np.split(matrix(block.qkv), 3)
    weights = query, key, value, matrix(block.out)
    expected = [
        image
        + apply_norm(efficient_attention(image.reshape(12, -1), *weights, heads=3), block.norm).reshape(image.shape)
        for image in x.numpy()
    ]
    compare(block, x, expected)
