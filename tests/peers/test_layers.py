"""Equal outputs and gradients of other libraries' layers and of ours with their weights."""

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer
from lambdanets.peers import from_lambda_networks, from_timm

lambda_networks = pytest.importorskip("lambda_networks")
TimmLayer = pytest.importorskip("timm.layers.lambda_layer").LambdaLayer


def randomize(layer):
    """A layer whose parameters and statistics have no longer their initial values."""
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
    theirs = randomize(TimmLayer(32, **options)).train(training)
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
    theirs = randomize(lambda_networks.LambdaLayer(32, dim_k=8, **options)).train(training)
    ours = from_lambda_networks(theirs).double()
    compare(theirs, ours, torch.randn(2, 32, 6, 6, dtype=torch.float64))
    grad = theirs.rel_pos_emb.grad.permute(2, 3, 0, 1) if "n" in options else theirs.pos_conv.weight.grad.squeeze(2)
    torch.testing.assert_close(ours.table.grad, grad, rtol=1e-9, atol=1e-9)


def test_mistakes():
    with pytest.raises(UserError, match="no bias"):
        from_timm(TimmLayer(32, qkv_bias=True))
    with pytest.raises(UserError, match="32 input and 64 output channels"):
        from_lambda_networks(lambda_networks.LambdaLayer(32, dim_out=64, dim_k=8, r=3))
