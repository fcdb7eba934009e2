"""The local relation layer against its definition."""

import numpy as np
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LocalRelation
from tests.mixers.comparison import SIZES, array, compare, matrix, random_images
from tests.reference.neighborhood import local_relation


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_local_relation(size, stride):
    torch.manual_seed(0)
    layer = LocalRelation(12, stride=stride, scope=5, group_channels=4).double()

    def prior(offset):
        return array(layer.prior(torch.from_numpy(offset)))

    prior.scope = 5
    x = random_images(12, size)
    query, key = np.split(matrix(layer.query_key), 2)
    compare(layer, x, [local_relation(image, query, key, prior, group_channels=4) for image in x.numpy()], stride)


def test_mistakes():
    with pytest.raises(UserError, match="group_channels=5 does not divide the 16 channels"):
        LocalRelation(16, group_channels=5)
