"""Parameter groups, and optimizers that torch does not have."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lambdanets.bolts import import_bolts


def parameter_groups(model: nn.Module, *, decay_norm_and_bias: bool = False) -> list[dict[str, Any]]:
    """Return a model's trainable parameters, with norms and biases in a group without weight decay.

    Args:
        model: a model, whose norms and biases are its one-dimensional parameters.
        decay_norm_and_bias: return one group with weight decay for all parameters.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_norm_and_bias:
        return [{"params": parameters}]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


def lars(params: Iterable[Any], **options: Any) -> Optimizer:
    """Create lightning-bolts' LARS optimizer (You et al. 2017): layer-wise learning rates for large batches.

    Args:
        params: parameters or parameter groups.
        **options: options of `pl_bolts.optimizers.lars.LARS`.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    return import_bolts("optimizers.lars").LARS(params, **options)
