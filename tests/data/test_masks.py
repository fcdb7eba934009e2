"""Run-length encodings against pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from lambdanets.data.masks import decode, encode, find_segmentation_error, to_rle, uncompress


@pytest.fixture
def masks():
    return torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) > 0.5


def test_encoding_is_pycocotools(masks):
    for rle, mask in zip(encode(masks), masks, strict=True):
        assert (mask_api.decode(rle) == mask.numpy()).all()


def test_decoding_inverts_pycocotools_encoding(masks):
    rles = mask_api.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert torch.equal(decode(rles, (20, 30)).bool(), masks)


def test_there_may_be_no_masks():
    assert encode(torch.zeros(0, 20, 30)) == []
    assert decode([], (20, 30)).shape == (0, 20, 30)


def test_polygons_are_merged():
    squares = [[1, 1, 5, 1, 5, 5, 1, 5], [10, 10, 14, 10, 14, 14, 10, 14]]
    mask = decode([to_rle(squares, (20, 30))], (20, 30))[0]
    expected = torch.zeros(20, 30, dtype=torch.uint8)
    expected[1:5, 1:5] = expected[10:14, 10:14] = 1
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "no mask"),
        ([[1, 2, 3, 4]], "fewer than three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "fewer than three corners"),
        ({"size": [30, 20], "counts": [600]}, "30×20 pixels, but its image has 20×30"),
        ({"counts": [600]}, "neither polygons nor a run-length encoding"),
        ([1, 2, 3, 4, 5, 6], "neither polygons nor a run-length encoding"),
    ],
)
def test_invalid_masks(segmentation, reason):
    assert reason in find_segmentation_error(segmentation, (20, 30), (0, 0, 30, 20))


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4, 5, 6]],
        [[-20, 1, 50, 1, 50, 30]],  # partly outside of the image
        {"size": [20, 30], "counts": [0, 600]},
        {"size": [20, 30], "counts": [100, 200, 0, 300]},
        {"size": [20.0, 30], "counts": [599, 1]},
    ],
)
def test_valid_masks(segmentation):
    assert find_segmentation_error(segmentation, (20, 30), (0, 0, 30, 20)) is None
    assert decode([to_rle(segmentation, (20, 30))], (20, 30)).shape == (1, 20, 30)


def test_compressed_masks_of_pycocotools_are_valid(masks):
    blank = torch.zeros_like(masks[:1])
    blank[0, 3, 4] = True
    for rle in mask_api.encode(np.asfortranarray(torch.cat([masks, ~blank, blank]).permute(1, 2, 0).to(torch.uint8))):
        segmentation = {"size": [20, 30], "counts": rle["counts"].decode()}
        assert find_segmentation_error(segmentation, (20, 30), (0, 0, 30, 20)) is None
        assert uncompress(segmentation["counts"], (20, 30)) == runs(mask_api.decode(rle))


def runs(mask):
    """Return the lengths of the runs of zeros and ones, column by column, the first one of zeros."""
    counts, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts
