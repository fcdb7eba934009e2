"""Other libraries' layers and networks, and ours with their weights: equal outputs and gradients.

Where they convolve, both libraries add a bias per key to the position lambdas, which the paper doesn't have, and timm
pools 2×2 for a stride where the paper pools 3×3; what is loaded here includes both.
"""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.peers import TIMM_NETWORKS, from_lambda_networks, from_timm, timm_network

timm = pytest.importorskip("timm")
lambda_networks = pytest.importorskip("lambda_networks")
TimmLayer = pytest.importorskip("timm.layers.lambda_layer").LambdaLayer


def randomised(layer):
    """Every parameter and statistic away from its start."""
    for tensor in layer.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    for name, tensor in layer.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith("running_mean"):
            torch.nn.init.normal_(tensor)
    return layer.double()


def compare(theirs, ours, x):
    results = []
    for layer in (theirs, ours):
        image = x.clone().requires_grad_()
        y = layer(image)
        torch.manual_seed(1)
        y.backward(torch.randn_like(y))
        results.append((y.detach(), image.grad, layer))
    (y, x_grad, _), (our_y, our_x_grad, _) = results
    torch.testing.assert_close(our_y, y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(our_x_grad, x_grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{"r": 5}, {"r": 9, "stride": 2}, {"r": None, "feat_size": (8, 6)}, {"r": 3, "num_heads": 2}], ids=str
)
def test_timm_layer(options, training):
    torch.manual_seed(0)
    theirs = randomised(TimmLayer(32, **options)).train(training)
    ours = from_timm(theirs).double()
    assert isinstance(ours, LambdaLayer)
    assert ours.training == training
    compare(theirs, ours, torch.randn(2, 32, 8, 6, dtype=torch.float64))
    name = "pos_emb" if options["r"] is None else "conv_lambda.weight"
    grad = theirs.get_parameter(name).grad
    expected = grad.permute(2, 0, 1)[:, None] if options["r"] is None else grad.squeeze(-1)
    torch.testing.assert_close(ours.table.grad, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{"r": 5, "dim_u": 3}, {"r": 7}, {"n": 6}, {"n": 6, "dim_u": 2, "heads": 8}], ids=str
)
def test_lambda_networks_layer(options, training):
    torch.manual_seed(0)
    theirs = randomised(lambda_networks.LambdaLayer(32, dim_k=8, **options)).train(training)
    ours = from_lambda_networks(theirs).double()
    compare(theirs, ours, torch.randn(2, 32, 6, 6, dtype=torch.float64))
    grad = theirs.rel_pos_emb.grad.permute(2, 3, 0, 1) if "n" in options else theirs.pos_conv.weight.grad.squeeze(2)
    torch.testing.assert_close(ours.table.grad, grad, rtol=1e-9, atol=1e-9)


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
        expected, found = theirs(x), ours(x)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_mistakes():
    with pytest.raises(UserError, match="no bias"):
        from_timm(TimmLayer(32, qkv_bias=True))
    with pytest.raises(UserError, match="32 input and 64 output channels"):
        from_lambda_networks(lambda_networks.LambdaLayer(32, dim_out=64, dim_k=8, r=3))
    with pytest.raises(UserError, match="resnet50' can't be converted"):
        timm_network("resnet50", {})
    weights = timm.create_model("lambda_resnet26t").state_dict()
    with pytest.raises(UserError, match="not those of timm's lambda_resnet26rpt_256"):
        timm_network("lambda_resnet26rpt_256", weights)
