"""benchmark=networks on one group."""

import pytest

from lambdanets.benchmarks import compare_networks
from lambdanets.benchmarks.measure import Setting

QUICK = Setting(device="cpu", threads=1, repeats=2, seconds=0.01)


def test_networks_with_the_same_weights_have_as_many_parameters():
    pytest.importorskip("timm")
    result = compare_networks(QUICK, batch=1, compare=["lambda_resnet26t"])
    theirs, ours = result.rows
    assert ours["M parameters"] == pytest.approx(theirs["M parameters"])
    assert theirs["train ratio"] == 1
