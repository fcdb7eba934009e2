"""The stem for small images: its first convolution against SciPy's discrete cosine transform."""

import numpy as np
import pytest
import torch
from scipy import fft
from torch import nn

from lambdanets.mixers import Conv
from lambdanets.models import ResNet
from lambdanets.models.stem import PatchTransform, cosine_basis, make_stem


@pytest.mark.parametrize("shape", [(5,), (3, 2), (3, 3, 3)])
def test_the_basis_is_that_of_scipys_transform_from_low_to_high_frequencies(shape):
    basis = cosine_basis(shape).numpy()
    coefficients = np.stack([fft.dctn(signal, norm="ortho") for signal in basis])
    frequencies = [np.argwhere(np.abs(coefficient) > 0.5)[0] for coefficient in coefficients]
    assert np.allclose(coefficients[(np.arange(len(basis)), *np.transpose(frequencies))], 1, atol=1e-6)
    assert np.allclose(np.abs(coefficients).sum(axis=tuple(range(1, coefficients.ndim))), 1, atol=1e-5)
    sums = [frequency.sum() for frequency in frequencies]
    assert sums == sorted(sums)
    assert len({tuple(frequency) for frequency in frequencies}) == np.prod(shape)


def test_the_first_convolution_has_each_frequency_with_both_signs_and_random_weights_where_there_are_too_few():
    torch.manual_seed(0)
    color, gray = (PatchTransform(channels, 32, 3, bias=False).weight.detach() for channels in (3, 1))
    assert torch.equal(color[:16], -color[16:])
    assert torch.allclose(color[:16].flatten(1) @ color[:16].flatten(1).T, torch.eye(16), atol=1e-6)
    assert torch.allclose(color[0], torch.full((3, 3, 3), 27**-0.5))
    assert torch.equal(gray[:9], -gray[9:18])
    assert (gray[18:].flatten(1) @ gray[:9].flatten(1).T).abs().min() > 1e-6


def test_a_batch_norm_behind_it_whitens_patches_whose_neighbors_are_alike():
    torch.manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(64, 1, 34, 34), 3, stride=1)
    transform = PatchTransform(1, 18, 3, bias=False)
    maps = nn.BatchNorm2d(18)(transform(images))[:, :9]
    random = nn.BatchNorm2d(9)(nn.functional.conv2d(images, torch.randn(9, 1, 3, 3)))
    off_diagonal = [
        (torch.corrcoef(x.transpose(0, 1).flatten(1)) - torch.eye(9)).abs().mean().item() for x in (maps, random)
    ]
    assert off_diagonal[0] < 0.5 * off_diagonal[1]


def test_a_network_keeps_that_start():
    torch.manual_seed(0)
    network = ResNet(Conv, depth=[1], strides=[1], layout="L", stem="fine", image_size=(32, 32))
    assert torch.equal(network.stem[0].weight, make_stem("fine", 3, 64, nn.ReLU)[0].weight)
