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
    """What a network, or a part of it, costs.

    Args:
        parameters: their number.
        flops: of one image's forward pass, two a multiply-add, by the methods that the device would choose.
        paper_flops: the same with lambda layers in the paper's order: all lambdas first, then the queries.
        activations: bytes that a training step keeps of one image for its backward pass.
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
    """The cost of each part of a network, in order; their sum is the network's.

    Nothing is allocated or computed: tensors are fakes that know their sizes only. A detector's heads count with as
    many regions as they look at in evaluation.

    Args:
        make: makes the network.
        channels: of the images.
        image_size: (H, W).
        batch: images in a step; the methods that lambda layers choose depend on it.
        device: for which they choose.
    """
    with torch.device("meta"):  # where nothing is initialised
        model = make().train()
    with FakeTensorMode(), torch.device(device):
        fake(model)
        images = torch.empty(batch, channels, *image_size)
        found = run_parts(model, images)
        in_order = [module for module in model.modules() if isinstance(module, LambdaLayer)]
        for layer in in_order:
            layer.set_method("lambdas" if layer.scope == "global" else "convolution")
        paper = run_parts(model, images) if in_order else found
    return {part: replace(cost, paper_flops=paper[part].flops) for part, cost in found.items()}


def fake(model: nn.Module) -> None:
    """Gives a network from the meta device tensors that claim to be on the current one."""
    made: dict[int, Tensor] = {}  # those that several modules share stay shared
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(tensor) not in made:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                made[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
            setattr(module, name, made[id(tensor)])


def sum_costs(parts: dict[str, ModelCost]) -> ModelCost:
    return sum(parts.values(), start=ModelCost())


def parts_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """What a network is made of: its stages one by one, and everything else."""
    if isinstance(model, CompositeNetwork):
        return model.parts()
    found: dict[str, list[nn.Module]] = {}
    for name, child in model.named_children():
        if name in ("stages", "features"):
            for number, stage in enumerate(child.children(), 1):
                found[f"{name.rstrip('s')} {number}"] = [stage]
        else:
            found[name] = [child]
    return found


def run_parts(model: nn.Module, images: Tensor) -> dict[str, ModelCost]:
    """One forward pass, what it computes and keeps assigned to the part in which it happens."""
    batch = len(images)
    made_of = parts_of(model)
    parts = {
        name: ModelCost(sum(p.numel() for module in modules for p in module.parameters()))
        for name, modules in made_of.items()
    }
    shared = sum(part.parameters for part in parts.values()) - sum(p.numel() for p in model.parameters())
    owned = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers(), images]}
    kept: dict[int, Tensor] = {}
    inside = ["other"]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in owned and storage._cdata not in kept:
            kept[storage._cdata] = tensor  # held, so that no other storage gets its address
            add(ModelCost(activations=storage.nbytes() / batch))
        return tensor

    def add(cost: ModelCost) -> None:
        parts[inside[-1]] = parts.get(inside[-1], ModelCost()) + cost

    with ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))
        start = [0]

        def enter(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                inside.append(name)
                start[0] = counter.get_total_flops()

            return hook

        def leave(*_: object) -> None:
            add(ModelCost(flops=(counter.get_total_flops() - start[0]) / batch))
            inside.pop()

        for name, module in ((name, module) for name, modules in made_of.items() for module in modules):
            for hook in (module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)):
                stack.callback(hook.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        output = model.dense(images) if isinstance(model, CompositeNetwork) else model(images)
    del output
    if shared:
        parts["(shared)"] = ModelCost(-shared)
    return parts
