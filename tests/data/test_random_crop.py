"""The random crop of encoded photos against torchvision's crop of decoded ones."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from lambdanets.data import Augmentation
from lambdanets.data.files import Photo
from lambdanets.data.random_crop import RandomCrop
from tests.images import encode_jpeg


@pytest.mark.parametrize("seed", range(4))
def test_a_crop_equals_torchvisions_up_to_the_resolution_of_decoding(seed):
    raw = encode_jpeg(640, 480)
    torch.manual_seed(seed)
    crop = RandomCrop((64, 64), scale=(0.2, 0.6))(Photo(raw, "photo"))
    torch.manual_seed(seed)
    expected = RandomResizedCrop((64, 64), scale=(0.2, 0.6), antialias=True)(Photo(raw, "photo").decode())
    assert (crop.float() - expected.float()).abs().mean() < 2
    assert (expected.float() - expected.float().flip(2)).abs().mean() > 10  # the photo is not symmetric


def test_a_crop_of_a_small_photo_is_torchvisions_up_to_rounding():
    raw = encode_jpeg(50, 31)
    torch.manual_seed(0)
    crop = Augmentation(crop_scale=(0.1, 0.9)).make_crop((24, 20))(Photo(raw, "photo"))
    torch.manual_seed(0)
    expected = RandomResizedCrop((24, 20), scale=(0.1, 0.9), antialias=True)(Photo(raw, "photo").decode())
    assert crop.shape == (3, 24, 20)
    assert (crop.int() - expected.int()).abs().max() <= 1
