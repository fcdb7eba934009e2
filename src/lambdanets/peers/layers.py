"""Lambda layers of timm and of lambda-networks, converted to ours.

Both libraries deviate from the paper: the convolution of their local layers has a bias, which adds the same number to
every value channel of each key's position lambda, and timm pools 2×2 where the paper pools 3×3. `BiasedLambda` does the
same, so that it computes what the trained weights mean; its own weights start as in timm.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer


class BiasedLambda(LambdaLayer):
    """A lambda layer whose position lambdas have a bias per key, and whose stride is a 2×2 average pooling.

    Args:
        channels: C.
        stride: 1 or 2.
        **options: further arguments of `LambdaLayer`.
    """

    def __init__(self, channels: int, *, stride: int = 1, **options: Any) -> None:
        super().__init__(channels, init="small", **options)
        self.bias = nn.Parameter(torch.zeros(self.key_depth))
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()

    def content_lambda(self, value: Tensor, key: Tensor | None) -> Tensor:
        return super().content_lambda(value, key) + self.bias.to(value.dtype)[:, None]


def from_timm(theirs: nn.Module) -> LambdaLayer:
    """Convert a `timm.layers.lambda_layer.LambdaLayer`, local (r) or with relative positions.

    Raises:
        UserError: its projection has a bias.
    """
    weights = theirs.state_dict()
    if "qkv.bias" in weights:
        raise UserError(
            "timm's LambdaLayer with qkv_bias=True can't be converted: our projections have no bias, like the paper's."
        )
    local = "conv_lambda.weight" in weights
    layer = BiasedLambda(
        weights["qkv.weight"].shape[1],
        stride=1 if isinstance(theirs.pool, nn.Identity) else 2,
        scope=weights["conv_lambda.weight"].shape[2] if local else "global",
        feature_size=None if local else theirs.feat_size,
        key_depth=int(theirs.dim_qk),  # type: ignore[arg-type]
        heads=int(theirs.num_heads),  # type: ignore[arg-type]
    )
    layer.load_state_dict(convert_timm_weights(weights, layer.sections))
    return layer.train(theirs.training)


def convert_timm_weights(weights: dict[str, Tensor], sections: list[int]) -> dict[str, Tensor]:
    """Convert the state dict of timm's layer to that of a `BiasedLambda`.

    Args:
        weights: state dict of timm's layer, whose projection gives queries, keys and values in that order.
        sections: channels of our queries, values and keys.
    """
    queries, values, keys = sections
    query, key, value = weights["qkv.weight"].flatten(1).split([queries, keys, values])
    ours = {"qkv.weight": torch.cat([query, value, key])}
    ours |= rename_norms(weights, {"norm_q": "query_norm", "norm_v": "value_norm"})
    if "conv_lambda.weight" in weights:
        ours["table"] = weights["conv_lambda.weight"].squeeze(-1)
        ours["bias"] = weights["conv_lambda.bias"]
    else:
        ours["table"] = weights["pos_emb"].permute(2, 0, 1)[:, None]
        ours["bias"] = torch.zeros(ours["table"].shape[0])
    return ours


def from_lambda_networks(theirs: nn.Module) -> LambdaLayer:
    """Convert a `lambda_networks.LambdaLayer`, local (r) or global (n).

    Raises:
        UserError: its numbers of input and output channels differ.
    """
    weights = theirs.state_dict()
    local = "pos_conv.weight" in weights
    channels = weights["to_q.weight"].shape[1]
    intra_depth, heads = int(theirs.u), int(theirs.heads)  # type: ignore[arg-type]
    out_channels = weights["to_v.weight"].shape[0] // intra_depth * heads
    if out_channels != channels:
        raise UserError(
            f"The lambda-networks layer has {channels} input and {out_channels} output channels; a mixer needs as many "
            "output as input channels."
        )
    side = weights["pos_conv.weight"].shape[3] if local else weights["rel_pos_emb"].shape[0]
    layer = BiasedLambda(
        channels,
        scope=side if local else "global",
        feature_size=None if local else ((side + 1) // 2, (side + 1) // 2),
        key_depth=weights["to_q.weight"].shape[0] // heads,
        heads=heads,
        intra_depth=intra_depth,
    )
    ours = {"qkv.weight": torch.cat([weights[f"to_{name}.weight"].flatten(1) for name in "qvk"])}
    ours |= rename_norms(weights, {"norm_q": "query_norm", "norm_v": "value_norm"})
    if local:
        ours["table"], ours["bias"] = weights["pos_conv.weight"].squeeze(2), weights["pos_conv.bias"]
    else:
        ours["table"], ours["bias"] = weights["rel_pos_emb"].permute(2, 3, 0, 1), layer.bias.detach()
    layer.load_state_dict(ours)
    return layer.train(theirs.training)


def rename_norms(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Return the batch norms of a state dict, under other names."""
    return {
        f"{names[name]}.{entry}": tensor
        for key, tensor in weights.items()
        for name, _, entry in [key.rpartition(".")]
        if name in names
    }
