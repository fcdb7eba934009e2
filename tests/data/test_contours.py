"""Scenes of contours and their drawings against the description, by slow methods."""

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from lambdanets.data.contours import BORDER, CLEARANCE, DASH, GRAY, MARK, STEP, WHITE, draw, sample_scenes

OPTIONS = {"side": 32, "length": 6, "distractors": 2, "distractor_length": 3}


@pytest.mark.parametrize(
    ("side", "length", "distractors", "distractor_length"), [(32, 7, 3, 3), (40, 5, 2, 3), (64, 14, 6, 6)]
)
def test_contours_do_not_touch_and_labels_are_true(side, length, distractors, distractor_length):
    scenes = sample_scenes(
        40, side=side, length=length, distractors=distractors, distractor_length=distractor_length, seed=0
    )
    for points, marks, connected in zip(scenes.points, scenes.marks, scenes.connected, strict=True):
        assert points.min() >= BORDER
        assert points.max() <= side - 1 - BORDER
        distance = cdist(points, points)
        # Neighbors on a contour are a step apart, and all other points at least the clearance: the contours are the
        # connected components of the neighborhood.
        neighbors = distance < STEP + 1e-4
        count, contour = connected_components(neighbors)
        assert count == 2 + distractors
        assert sorted(np.bincount(contour)) == [distractor_length] * distractors + [length] * 2
        assert distance[~neighbors].min() >= CLEARANCE
        ends = cdist(marks, points).argmin(1)
        assert np.allclose(points[ends], marks)
        assert (neighbors[ends].sum(1) == 2).all()  # itself and one neighbor: an end
        assert (np.bincount(contour)[contour[ends]] == length).all()
        assert (contour[ends[0]] == contour[ends[1]]) == bool(connected)


def test_the_marks_alone_do_not_reveal_the_class():
    scenes = sample_scenes(6000, **OPTIONS, seed=1)
    distance = (scenes.marks[:, 0] - scenes.marks[:, 1]).norm(dim=1)[:, None]
    features = PolynomialFeatures(3).fit_transform(torch.cat([scenes.marks.flatten(1), distance], 1).numpy() / 32)
    labels = scenes.connected.numpy()
    accuracy = (
        LogisticRegression(max_iter=500).fit(features[:4000], labels[:4000]).score(features[4000:], labels[4000:])
    )
    assert abs(accuracy - 0.5) < 0.04  # 3.5 standard deviations of guessing
    assert abs(labels.mean() - 0.5) < 0.03


def test_images_show_the_scenes():
    scenes = sample_scenes(3, **OPTIONS, seed=2)
    rows, columns = np.mgrid[:32, :32].astype(float)
    for image, points, headings, marks in zip(
        draw(scenes, 32)[:, 0], scenes.points, scenes.headings, scenes.marks, strict=True
    ):
        expected = np.zeros((32, 32))
        for (y, x), angle in zip(points.tolist(), headings.tolist(), strict=True):
            # The distance to a dash is the smallest distance to many points on it.
            offsets = np.linspace(-DASH, DASH, 201)
            distance = np.hypot(
                rows[..., None] - y - offsets * np.sin(angle), columns[..., None] - x - offsets * np.cos(angle)
            ).min(-1)
            expected = np.maximum(expected, GRAY * np.clip(1.2 - distance, 0, 1))
        for y, x in marks.tolist():
            expected = np.maximum(expected, WHITE * np.clip(MARK + 0.5 - np.hypot(rows - y, columns - x), 0, 1))
        np.testing.assert_allclose(image.numpy(), 255 * expected, atol=1.5)


def test_chunks_are_all_scenes_in_order():
    scenes = sample_scenes(5, **OPTIONS, seed=3)
    chunks = scenes.chunks(2)
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert torch.equal(torch.cat([chunk.points for chunk in chunks]), scenes.points)
    assert torch.equal(torch.cat([draw(chunk, 32) for chunk in chunks]), draw(scenes, 32))
