"""Parameter groups, and optimizers that torch does not have."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer

from lambdanets.bolts import import_bolts
from lambdanets.errors import UserError


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


def create_optimizer(factory: Callable[..., Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    """Create an optimizer; on a GPU with one kernel for all parameters (`fused=True`), if it has such an option.

    A factory that sets `fused` or `foreach` itself keeps its choice, and so does an optimizer of sharded parameters.

    The optimizer can load the states of another run with the same parameters. Its own options stay, such as learning
    rate and weight decay.

    Args:
        factory: from parameter groups to an optimizer.
        groups: parameter groups.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    options = inspect.signature(factory).parameters
    undecided = all(name in options and options[name].default is None for name in ("fused", "foreach"))
    fuses = undecided and all(p.device.type == "cuda" and not isinstance(p, DTensor) for p in parameters)
    optimizer = factory(groups, fused=True) if fuses else factory(groups)
    optimizer.register_load_state_dict_pre_hook(partial(keep_options, factory=factory))
    return prepare_fused(optimizer) if fuses else optimizer


def prepare_fused(optimizer: Optimizer) -> Optimizer:
    """Make a fused optimizer skip its first step correctly, and load the states of any other run.

    A skipped first step would leave SGD's momentum uninitialized. A run on another device may have another choice of
    kernels, and states in another memory format, in which fused kernels refuse them.
    """
    for group in optimizer.param_groups if isinstance(optimizer, SGD) else ():
        for parameter in group["params"] if group["momentum"] and not group["dampening"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_pre_hook(keep_fused)
    optimizer.register_load_state_dict_post_hook(match_layouts)
    return optimizer


def keep_fused(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's saved state with its present choice of kernels."""
    groups = zip(state_dict["param_groups"], optimizer.param_groups, strict=True)
    kept = ("fused", "foreach")
    return {**state_dict, "param_groups": [saved | {name: group[name] for name in kept} for saved, group in groups]}


def keep_options(
    optimizer: Optimizer, state_dict: dict[str, Any], *, factory: Callable[..., Optimizer]
) -> dict[str, Any]:
    """Return an optimizer's saved state with its present options.

    Raises:
        UserError: the state is of other parameter groups, or lacks what the present options need.
    """
    saved, present = state_dict["param_groups"], optimizer.param_groups
    sizes = [[len(group["params"]) for group in groups] for groups in (saved, present)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"The checkpoint's optimizer has groups of {sizes[0]} parameters, and the config needs {sizes[1]}: leave "
            "recipe.decay_norm_and_bias, recipe.norm and the model as they were, or start a new run with base_run=."
        )
    stored_names = {name for state in state_dict["state"].values() for name in state}
    missing = state_names(factory) - stored_names if state_dict["state"] else set()
    if missing:
        raise UserError(
            f"The checkpoint's optimizer has no {', '.join(sorted(missing))}, which the options in recipe.optimizer "
            "need: leave them as they were, or start a new run with base_run=."
        )
    groups = [
        group | {name: value for name, value in own.items() if name != "params"}
        for group, own in zip(saved, present, strict=True)
    ]
    return {**state_dict, "param_groups": groups}


def state_names(factory: Callable[..., Optimizer]) -> set[str]:
    """Return the names of the states that an optimizer has of each parameter after a step."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    optimizer = factory([parameter])
    optimizer.step()
    return set(optimizer.state[parameter])


def match_layouts(optimizer: Optimizer) -> None:
    """Store an optimizer's states in the memory format of their parameters."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def lars(params: Iterable[Any], **options: Any) -> Optimizer:
    """Create lightning-bolts' LARS optimizer (You et al. 2017): layer-wise learning rates for large batches.

    Args:
        params: parameters or parameter groups.
        **options: options of `pl_bolts.optimizers.lars.LARS`.

    Raises:
        UserError: lightning-bolts is not installed.
    """
    return import_bolts("optimizers.lars").LARS(params, **options)
