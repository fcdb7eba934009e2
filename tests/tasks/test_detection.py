"""Members of the detection task."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import Conv
from lambdanets.models import ResNet
from lambdanets.tasks import Detection
from lambdanets.tasks.average_precision import AveragePrecision


def test_reports_name_scores_that_the_metric_computes():
    computed = AveragePrecision().compute().keys()
    assert {name for names in Detection.SCORE_TABLE.columns.values() for name in names} <= computed
    assert {name.partition("/")[2] for name in (Detection.MONITOR, *Detection.SCORES)} <= computed
    assert Detection.SCORE_TITLES.keys() <= computed


def test_a_classifier_is_refused():
    network = ResNet(Conv, depth=[1], layout="C", strides=[1], width=0.25, image_size=(8, 8), num_classes=3)
    with pytest.raises(UserError, match="task=detection needs model=mask_rcnn, and ResNet is not a detector"):
        Detection(network, num_classes=3, optimizer=torch.optim.SGD, batch_size=2)
