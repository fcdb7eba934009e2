"""Content and position lambdas, position embeddings and key entropies of lambda layers."""

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization
from lambdanets.callbacks.drawing import enlarge, tile_images, to_diverging_colors
from lambdanets.mixers import LambdaLayer
from lambdanets.models import MobileNet, ResNet
from lambdanets.ops import normalize_keys, scope_to_offsets
from lambdanets.ops.table import dilate_table

MAP_SIDE = 72  # pixels


class LambdaVisualization(BudgetedVisualization):
    """Write images of each lambda layer for the middle query of one validation image.

    - `lambdas/<layer>/content`: above, the content map q · K̄_m over the positions m, one image per head; below, the
      content lambda as an image of v rows and k columns.
    - `lambdas/<layer>/position`: the same for the positions, with q · E_nm and the position lambda of that query n.
    - `embeddings/<layer>`: the table of position embeddings, one image of all offsets for each k (and u).
    - `entropy/<layer>`: mean entropy of the softmaxed keys over key channels and images, as a fraction of the largest
      possible one: 1 if all positions have equal weight, 0 if one position has all of it.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images for the entropies.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 8) -> None:
        super().__init__(time_budget, count)

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        step, images, network = trainer.global_step, self.validation_images(), find_network(task)
        if network is None:
            return
        for name, layer in lambda_layers(network):
            if layer.table is not None:
                table = layer.table.detach().flatten(0, 1).cpu()
                embeddings = tile_images(enlarge(to_diverging_colors(table), MAP_SIDE), columns=8)
                writer.add_image(f"embeddings/{name}", embeddings, step)
        if images is None:
            return
        for name, layer, x in layer_inputs(network, images):
            for kind, (maps, function) in query_maps(layer, x[:1]).items():
                writer.add_image(f"lambdas/{name}/{kind}", draw_maps(maps, function), step)
            if (entropy := key_entropy(layer, x)) is not None:
                writer.add_scalar(f"entropy/{name}", entropy, step)


def find_network(task: pl.LightningModule) -> ResNet | MobileNet | None:
    """Return the network in a task's model that has the mixers, or None."""
    return next((module for module in task.modules() if isinstance(module, ResNet | MobileNet)), None)


def lambda_layers(network: torch.nn.Module) -> Iterator[tuple[str, LambdaLayer]]:
    """Yield all lambda layers with names such as c4/block2 in a ResNet and block10 in a MobileNet."""
    if isinstance(network, MobileNet):
        mixers = {f"block{number}": block.mixer for number, block in network.mixed_blocks().items()}
        yield from ((name, layer) for name, layer in mixers.items() if isinstance(layer, LambdaLayer))
        return
    for name, layer in network.named_modules():
        if isinstance(layer, LambdaLayer):
            _, stage, block, *_ = name.split(".")
            yield f"c{int(stage) + 2}/block{int(block) + 1}", layer


def layer_inputs(network: torch.nn.Module, images: Tensor) -> list[tuple[str, LambdaLayer, Tensor]]:
    """Return the name of each lambda layer, the layer, and its input for these images."""
    inputs: list[tuple[str, LambdaLayer, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: inputs.append((name, layer, args[0])))
        for name, layer in lambda_layers(network)
    ]
    try:
        network.features(images)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def query_maps(layer: LambdaLayer, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute the maps and lambdas of the query in the middle of an image.

    The sum of the content and the position lambda, applied to the query, is the layer's output at that position. With
    u = 1, the sum of both maps weights the values to the same output.

    Args:
        layer: a lambda layer.
        x: (1, C, H, W), its input.

    Returns:
        For "content" and "position", as far as the layer has them: the map of each head, summed over u, (h, H, W), and
        the lambda, (v, k).
    """
    queries, values, keys = layer.project(x, x, torch.channels_last)
    _, height, width, _, _ = queries.shape
    row, column = height // 2, width // 2
    query = queries[0, row, column].float()  # (h, k)
    value = values[0].float()  # (H, W, u, v)
    contexts: dict[str, Tensor] = {}  # (u, k, H, W), zero at positions outside of the query's scope
    if keys is not None:
        normalized = normalize_keys(keys.flatten(1, 2), layer.key_norm, 1)[0].float()
        contexts["content"] = normalized.unflatten(0, (height, width)).permute(2, 3, 0, 1)
    if (table := layer.fit_table(queries)) is not None:
        offsets = scope_to_offsets(dilate_table(table.float(), layer.dilation), (height, width))
        rows = slice(height - 1 - row, 2 * height - 1 - row)
        columns = slice(width - 1 - column, 2 * width - 1 - column)
        contexts["position"] = offsets[:, :, rows, columns].transpose(0, 1)
    results = {}
    for kind, context in contexts.items():
        if layer.causal:
            later = torch.arange(height * width, device=x.device) > row * width + column
            context = context.masked_fill(later.unflatten(0, (height, width)), 0)
        maps = torch.einsum("hk,ukyx->hyx", query, context)
        results[kind] = maps.cpu(), torch.einsum("ukyx,yxuv->vk", context, value).cpu()
    return results


def draw_maps(maps: Tensor, function: Tensor) -> Tensor:
    """Draw the maps of all heads side by side above the lambda: (h, H, W) and (v, k) → (3, H', W')."""
    above = tile_images(enlarge(to_diverging_colors(maps), MAP_SIDE), columns=len(maps))
    below = enlarge(to_diverging_colors(function), above.shape[2])
    width = max(above.shape[2], below.shape[2])
    return torch.cat([F.pad(part, (0, width - part.shape[2]), value=1.0) for part in (above, below)], 1)


def key_entropy(layer: LambdaLayer, x: Tensor) -> float | None:
    """Return the mean entropy of the softmaxed keys, as a fraction of the largest possible one.

    Args:
        layer: a lambda layer.
        x: (B, C, H, W), its input.

    Returns:
        From 0 to 1; None for a layer without softmaxed keys or an input of one position.
    """
    if layer.key_norm != "softmax" or x.shape[2] * x.shape[3] < 2:
        return None
    _, _, keys = layer.project(x, x, torch.channels_last)
    if keys is None:
        return None
    weights = normalize_keys(keys.flatten(1, 2), "softmax", 1).float()
    max_entropy = torch.tensor(float(weights.shape[1])).log()
    return float(torch.special.entr(weights).sum(1).mean().cpu() / max_entropy)
