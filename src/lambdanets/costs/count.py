"""Parameters, FLOPs and activation memory of a network, without running it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.mixers import LambdaLayer
from lambdanets.models import CompositeNetwork


@dataclass(frozen=True)
class ModelCost:
    """The cost of a network, or of a part of it.

    Args:
        parameters: number of parameters.
        flops: FLOPs of one image's forward pass, two per multiply-add, with the methods that are predicted to be
            fastest on the device.
        paper_flops: the same with lambda layers in the paper's order: all lambdas first, then the queries.
        activations: bytes per image that a training step saves for its backward pass.
    """

    parameters: int = 0
    flops: float = 0
    paper_flops: float = 0
    activations: float = 0

    def __add__(self, other: "ModelCost") -> "ModelCost":
        return ModelCost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.paper_flops + other.paper_flops,
            self.activations + other.activations,
        )


def count_costs(
    make: Callable[[], nn.Module], *, channels: int, image_size: tuple[int, int], batch: int = 8, device: str = "cpu"
) -> dict[str, ModelCost]:
    """Count the cost of each part of a network, in order; their sum is the network's.

    Nothing is allocated or computed: the tensors are fakes without data. A detector's heads count with as many regions
    as they process in evaluation.

    Args:
        make: factory of the network.
        channels: channels of the images.
        image_size: (H, W) of the images.
        batch: images per step, on which the methods of lambda layers depend.
        device: device type, on which they depend too.

    Returns:
        The costs by the parts' names, such as "stem" and "stage 1".
    """
    with torch.device("meta"):  # nothing is initialized there
        model = make().train()
    with FakeTensorMode(), torch.device(device):
        move_to_fake_device(model)
        images = torch.empty(batch, channels, *image_size)
        costs = run_parts(model, images)
        lambda_layers = [module for module in model.modules() if isinstance(module, LambdaLayer)]
        for layer in lambda_layers:
            layer.set_method("lambdas" if layer.scope == "global" else "convolution")
        paper_costs = run_parts(model, images) if lambda_layers else costs
    return {part: replace(cost, paper_flops=paper_costs[part].flops) for part, cost in costs.items()}


def move_to_fake_device(model: nn.Module) -> None:
    """Replace the tensors of a network on the meta device by fake ones on the current device."""
    fakes: dict[int, Tensor] = {}  # by the original's id, so that shared tensors stay shared
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(tensor) not in fakes:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                fakes[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
            setattr(module, name, fakes[id(tensor)])


def sum_costs(parts: dict[str, ModelCost]) -> ModelCost:
    return sum(parts.values(), start=ModelCost())


def split_parts(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Split a network into its stages and its other children."""
    if isinstance(model, CompositeNetwork):
        return model.parts()
    parts: dict[str, list[nn.Module]] = {}
    for name, child in model.named_children():
        if name in ("stages", "features"):
            for index, stage in enumerate(child.children(), 1):
                parts[f"{name.rstrip('s')} {index}"] = [stage]
        else:
            parts[name] = [child]
    return parts


def run_parts(model: nn.Module, images: Tensor) -> dict[str, ModelCost]:
    """Run one forward pass and assign its FLOPs and saved activations to the parts that cause them."""
    batch = len(images)
    modules_by_part = split_parts(model)
    parts = {
        name: ModelCost(sum(p.numel() for module in modules for p in module.parameters()))
        for name, modules in modules_by_part.items()
    }
    shared = sum(part.parameters for part in parts.values()) - sum(p.numel() for p in model.parameters())
    owned = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers(), images]}
    saved: dict[int, Tensor] = {}
    running = ["other"]  # the parts that are running, the innermost last

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in saved:
            saved[storage._cdata] = tensor  # a reference, so that no other storage gets its address
            add(ModelCost(activations=storage.nbytes() / batch))
        return tensor

    def add(cost: ModelCost) -> None:
        parts[running[-1]] = parts.get(running[-1], ModelCost()) + cost

    with ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))
        start = [0]

        def enter(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                running.append(name)
                start[0] = counter.get_total_flops()

            return hook

        def leave(*_: object) -> None:
            add(ModelCost(flops=(counter.get_total_flops() - start[0]) / batch))
            running.pop()

        for name, module in ((name, module) for name, modules in modules_by_part.items() for module in modules):
            for hook in (module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)):
                stack.callback(hook.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor))
        output = model.dense(images) if isinstance(model, CompositeNetwork) else model(images)
    del output
    if shared:
        parts["(shared)"] = ModelCost(-shared)
    return parts
