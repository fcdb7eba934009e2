"""scikit-learn's digits, and random images: splits as functions of their seeds."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from lambdanets.data import Digits, RandomImages


def load_splits(data):
    data.setup("fit")
    data.setup("test")
    return [split.tensors for split in (data.train_set, data.val_set, data.test_set)]


def test_digits_are_scikit_learns_and_their_splits_are_disjoint():
    splits = load_splits(Digits())
    digits = load_digits()
    scans = (digits.images * (255 / 16)).round().astype(np.uint8)
    expected = sorted((scan.tobytes(), label) for scan, label in zip(scans, digits.target, strict=True))
    loaded = [
        (image.numpy().tobytes(), label.item()) for tensors in splits for image, label in zip(*tensors, strict=True)
    ]
    assert sorted(loaded) == expected
    assert [len(labels) for _, labels in splits] == [1294, 144, 359]


def test_split_seed_changes_the_validation_split_but_not_the_test_split():
    first, again, other = (load_splits(Digits(split_seed=seed, seed=run)) for seed, run in ((0, 0), (0, 5), (1, 0)))
    assert torch.equal(first[1][0], again[1][0])
    assert not torch.equal(first[1][0], other[1][0])
    assert torch.equal(first[2][0], other[2][0])


def test_random_images_are_a_function_of_split_seed():
    options = {"size": 50, "image_size": 8, "num_classes": 3}
    first, again = load_splits(RandomImages(**options)), load_splits(RandomImages(seed=5, **options))
    other = load_splits(RandomImages(split_seed=1, **options))
    assert [images.shape for images, _ in first] == [(50, 3, 8, 8), (10, 3, 8, 8), (10, 3, 8, 8)]
    assert set(first[0][1].tolist()) == {0, 1, 2}
    assert all(torch.equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[1][0], first[2][0])
    assert not torch.equal(first[2][0], other[0][0][:10])
