"""What the optimisers are given, and the one that torch doesn't have."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lambdanets.bolts import import_bolts


def parameter_groups(model: nn.Module, *, decay_norm_and_bias: bool = False) -> list[dict[str, Any]]:
    """The trainable parameters, with norms and biases (the one-dimensional ones) in a group without weight decay.

    Args:
        model: their owner.
        decay_norm_and_bias: decay them like all others.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_norm_and_bias:
        return [{"params": parameters}]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def lars(params: Iterable[Any], **options: Any) -> Optimizer:
    """LARS (You et al. 2017) as lightning-bolts has it: layer-wise learning rates for large batches.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    return import_bolts("optimizers.lars").LARS(params, **options)
