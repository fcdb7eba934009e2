"""What lambda layers see, by content and by position."""

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization, skeleton
from lambdanets.callbacks.drawing import diverging, enlarged, tiles
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import normalize_keys, scope_to_offsets
from lambdanets.ops.table import dilate_table

SIDE = 72  # pixels of a map


class LambdaVisualization(BudgetedVisualization):
    """Of each lambda layer, for one validation image:

    - lambdas/<layer>/content: above, what each head's query in the middle sees by content, q · K̄_m over the positions
      m; below, the content lambda itself, v rows of k.
    - lambdas/<layer>/position: the same by position, q · E_nm, and below, the position lambda of that query.
    - embeddings/<layer>: the table of position embeddings, a picture of all offsets for each of the k (and u).
    - entropy/<layer>: of the softmaxed keys, the mean over key channels and images, as a share of that of an even
      distribution: 1 where all positions count alike, 0 where one does.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images that the entropies are of.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 8) -> None:
        super().__init__(time_budget)
        self.count = count

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        step, images, network = trainer.global_step, self.images(self.count), skeleton(task)
        if network is None:
            return
        for name, layer in lambda_layers(network):
            if layer.table is not None:
                table = layer.table.detach().flatten(0, 1).cpu()
                writer.add_image(f"embeddings/{name}", tiles(enlarged(diverging(table), SIDE), 8), step)
        if images is None:
            return
        for name, layer, x in inputs(network, images):
            for kind, picture in pictures(layer, x[:1]).items():
                writer.add_image(f"lambdas/{name}/{kind}", picture, step)
            if (entropy := key_entropy(layer, x)) is not None:
                writer.add_scalar(f"entropy/{name}", entropy, step)


def lambda_layers(network: torch.nn.Module) -> Iterator[tuple[str, LambdaLayer]]:
    """All lambda layers with their places, such as c4/block2."""
    for name, layer in network.named_modules():
        if isinstance(layer, LambdaLayer):
            _, stage, block, *_ = name.split(".")
            yield f"c{int(stage) + 2}/block{int(block) + 1}", layer


def inputs(network: torch.nn.Module, images: Tensor) -> list[tuple[str, LambdaLayer, Tensor]]:
    """All lambda layers with what they are given for these images."""
    found: list[tuple[str, LambdaLayer, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: found.append((name, layer, given[0])))
        for name, layer in lambda_layers(network)
    ]
    try:
        network.features(images)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    return found


def pictures(layer: LambdaLayer, x: Tensor) -> dict[str, Tensor]:
    """One image's content and position lambdas and what the query in its middle sees through them, by kind."""
    query, value, key = layer.project(x, x, torch.channels_last)
    _, height, width, heads, _ = query.shape
    row, column = height // 2, width // 2
    asked = query[0, row, column].float()  # (h, k)
    values = value[0].float()  # (H, W, u, v)
    seen: dict[str, Tensor] = {}  # (u, k, H, W), zero where the query may not look
    if key is not None:
        normal = normalize_keys(key.flatten(1, 2), layer.key_norm, 1)[0].float()
        seen["content"] = normal.unflatten(0, (height, width)).permute(2, 3, 0, 1)
    if (table := layer.embeddings(query)) is not None:
        offsets = scope_to_offsets(dilate_table(table.float(), layer.dilation), (height, width))
        rows, columns = (slice(n - 1 - at, 2 * n - 1 - at) for n, at in ((height, row), (width, column)))
        seen["position"] = offsets[:, :, rows, columns].transpose(0, 1)
    found = {}
    for kind, embedded in seen.items():
        if layer.causal:
            later = torch.arange(height * width, device=x.device) > row * width + column
            embedded = embedded.masked_fill(later.unflatten(0, (height, width)), 0)
        maps = torch.einsum("hk,ukyx->hyx", asked, embedded)
        function = torch.einsum("ukyx,yxuv->vk", embedded, values)
        above = tiles(enlarged(diverging(maps.cpu()), SIDE), heads)
        below = enlarged(diverging(function.cpu()), above.shape[2])
        wide = max(above.shape[2], below.shape[2])
        both = [torch.nn.functional.pad(part, (0, wide - part.shape[2]), value=1.0) for part in (above, below)]
        found[kind] = torch.cat(both, 1)
    return found


def key_entropy(layer: LambdaLayer, x: Tensor) -> float | None:
    """The mean entropy of the softmaxed keys, as a share of the largest possible one; None without softmaxed keys."""
    if layer.key_norm != "softmax" or x.shape[2] * x.shape[3] < 2:
        return None
    _, _, key = layer.project(x, x, torch.channels_last)
    if key is None:
        return None
    shares = normalize_keys(key.flatten(1, 2), "softmax", 1).float()
    most = torch.tensor(float(shares.shape[1])).log()
    return float(torch.special.entr(shares).sum(1).mean().cpu() / most)
