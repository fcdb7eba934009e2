"""Equal logits of timm's lambda networks and of ours with their weights."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.peers import TIMM_NETWORKS, timm_network

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", TIMM_NETWORKS)
def test_timm_network_gives_the_same_logits(name):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=10)
    torch.nn.init.normal_(theirs.head.fc.weight)
    x = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        theirs(x)  # statistics of the batch norms that are not the initial ones
    theirs.eval()
    ours = timm_network(name, theirs.state_dict()).eval()
    assert sum(p.numel() for p in ours.parameters()) - sum(p.numel() for p in theirs.parameters()) in (0, 48)
    with torch.no_grad():
        expected, actual = theirs(x), ours(x)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_mistakes():
    with pytest.raises(UserError, match="resnet50' can't be converted"):
        timm_network("resnet50", {})
    weights = timm.create_model("lambda_resnet26t").state_dict()
    with pytest.raises(UserError, match="not those of timm's lambda_resnet26rpt_256"):
        timm_network("lambda_resnet26rpt_256", weights)
