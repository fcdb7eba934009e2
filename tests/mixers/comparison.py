"""Comparison of mixers with the references."""

import numpy as np
import torch

from tests.reference.pooling import average_pool

# One tile, several with a rest, tiles along one axis only, less than a neighborhood.
SIZES = [(4, 4), (9, 11), (3, 18), (1, 2)]


def array(tensor):
    return tensor.detach().numpy()


def matrix(conv):
    """The weights (out, in) of a 1×1 convolution."""
    return array(conv.weight)[:, :, 0, 0]


def random_images(channels, size):
    torch.manual_seed(1)
    return torch.randn(2, channels, *size, dtype=torch.float64)


def compare(layer, x, expected, stride=1):
    if stride == 2:
        expected = [average_pool(image) for image in expected]
    np.testing.assert_allclose(array(layer(x)), np.stack(expected), rtol=1e-10, atol=1e-12)


def randomize_norm(block):
    """A block in evaluation mode whose norm has no longer its initial values."""
    torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
    torch.nn.init.normal_(block.norm.bias)
    torch.nn.init.normal_(block.norm.running_mean)
    torch.nn.init.uniform_(block.norm.running_var, 0.5, 2)
    return block.double().eval()


def apply_norm(y, norm):
    mean, var, gain, bias = (array(t)[:, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (y - mean) / np.sqrt(var + norm.eps) * gain + bias
