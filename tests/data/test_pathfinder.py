"""Pathfinder's scenes and pictures against their description, by slow means."""

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from lambdanets.data import Pathfinder
from lambdanets.data.contours import BORDER, CLEARANCE, DASH, GRAY, MARK, STEP, WHITE, draw, sample_scenes
from lambdanets.errors import UserError

SIZES = {"side": 32, "length": 6, "distractors": 2, "distractor_length": 3}


@pytest.mark.parametrize(("side", "length", "distractors", "short"), [(32, 7, 3, 3), (40, 5, 2, 3), (64, 14, 6, 6)])
def test_contours_don_t_touch_and_the_label_is_true(side, length, distractors, short):
    found = sample_scenes(40, side=side, length=length, distractors=distractors, distractor_length=short, seed=0)
    for points, marks, connected in zip(found.points, found.marks, found.connected, strict=True):
        assert points.min() >= BORDER
        assert points.max() <= side - 1 - BORDER
        near = cdist(points, points)
        # Neighbours on a contour are a step apart, all others farther than the clearance: contours are what the
        # neighbourhood joins.
        count, contour = connected_components(near < STEP + 1e-4)
        assert count == 2 + distractors
        assert sorted(np.bincount(contour)) == [short] * distractors + [length] * 2
        joined = near < STEP + 1e-4
        assert near[~joined].min() >= CLEARANCE
        ends = cdist(marks, points).argmin(1)
        assert np.allclose(points[ends], marks)
        assert (joined[ends].sum(1) == 2).all()  # itself and one neighbour: an end
        assert (np.bincount(contour)[contour[ends]] == length).all()
        assert (contour[ends[0]] == contour[ends[1]]) == bool(connected)


def test_the_marks_alone_don_t_tell():
    found = sample_scenes(6000, **SIZES, seed=1)
    where = torch.cat([found.marks.flatten(1), (found.marks[:, 0] - found.marks[:, 1]).norm(dim=1)[:, None]], 1)
    features = PolynomialFeatures(3).fit_transform(where.numpy() / 32)
    labels = found.connected.numpy()
    score = LogisticRegression(max_iter=500).fit(features[:4000], labels[:4000]).score(features[4000:], labels[4000:])
    assert abs(score - 0.5) < 0.04  # three and a half standard deviations of guessing
    assert abs(labels.mean() - 0.5) < 0.03


def test_pictures_show_the_scenes():
    found = sample_scenes(3, **SIZES, seed=2)
    rows, columns = np.mgrid[:32, :32].astype(float)
    for picture, points, headings, marks in zip(
        draw(found, 32)[:, 0], found.points, found.headings, found.marks, strict=True
    ):
        expected = np.zeros((32, 32))
        for (y, x), angle in zip(points.tolist(), headings.tolist(), strict=True):
            # The distance to a dash as the least one to many points of it.
            along = np.linspace(-DASH, DASH, 201)
            dots = np.hypot(rows[..., None] - y - along * np.sin(angle), columns[..., None] - x - along * np.cos(angle))
            expected = np.maximum(expected, GRAY * np.clip(1.2 - dots.min(-1), 0, 1))
        for y, x in marks.tolist():
            expected = np.maximum(expected, WHITE * np.clip(MARK + 0.5 - np.hypot(rows - y, columns - x), 0, 1))
        np.testing.assert_allclose(picture.numpy(), 255 * expected, atol=1.5)


def test_a_set_is_a_function_of_its_seed():
    def images(**options):
        data = Pathfinder(difficulty="easy", train_images=50, val_images=50, test_images=50, **options)
        data.setup("fit")
        data.setup("test")
        return [split.tensors for split in (data.train_set, data.val_set, data.test_set)]

    splits = images()
    for (first, labels), (again, same) in zip(splits, images(seed=5), strict=True):
        assert torch.equal(first, again)
        assert torch.equal(labels, same)
    assert not torch.equal(splits[0][0], splits[1][0])
    assert not torch.equal(splits[1][0], splits[2][0])
    assert not torch.equal(splits[0][0], images(split_seed=1)[0][0])


@pytest.mark.parametrize("side", [32, 48, 64])
@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_every_difficulty_has_images(side, difficulty):
    images, labels = Pathfinder(side=side, difficulty=difficulty, val_images=22).make_split(1).tensors
    assert images.shape == (22, 1, side, side)
    assert images.dtype == torch.uint8
    assert set(labels.tolist()) == {0, 1}


def test_mistakes_are_told():
    with pytest.raises(UserError, match="difficulty=impossible is not known"):
        Pathfinder(difficulty="impossible")
    with pytest.raises(UserError, match="side=16 is too small"):
        Pathfinder(side=16)
