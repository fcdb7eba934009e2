"""The interface that all classifiers share, with the names and the behavior of timm's models.

Features at several strides, an exchangeable head, gradient checkpointing and pruning; whatever works with timm's ResNet
works with these networks too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lambdanets.errors import UserError
from lambdanets.mixers.interface import lay_out
from lambdanets.ops import is_transformed

torch.fx.wrap("lay_out")

PoolType = Literal["avg", "max", "avgmax", "catavgmax", ""]
POOL_TYPES = ("avg", "max", "avgmax", "catavgmax", "")
UNPOOLED = "global_pool='' leaves maps, which no classifier takes: call reset_classifier(0), or choose avg."
Indices = int | Sequence[int] | None


class Feature(NamedTuple):
    """A feature map of a network.

    Attributes:
        channels: of the map.
        reduction: H of the image / H of the map.
        module: name of the module whose output it is.
    """

    channels: int
    reduction: int
    module: str


class BlockSequence(nn.Sequential):
    """Blocks in sequence, with gradient checkpointing on demand: activations within a block are computed twice.

    Transforms of `torch.func` don't support it; under them all activations are saved.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        saves_memory = self.grad_checkpointing and torch.is_grad_enabled() and not is_transformed()
        for block in self:
            x = checkpoint_block(block, x) if saves_memory else block(x)
        return x


def checkpoint_block(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without saving its activations; its batch norms count each batch once."""
    if torch.compiler.is_compiling():  # a compiled graph updates the statistics once
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), keep_batch_statistics(block)))


@contextmanager
def keep_batch_statistics(block: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics."""
    # Copies and not flags: autograd must save as many tensors as the first time.
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    statistics = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, statistics, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, statistics, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


class GlobalPool(nn.Module):
    """Pooling over all positions: (B, C, H, W) → (B, C), (B, 2·C) for "catavgmax", or the same without pooling.

    Args:
        pool_type: "avg", "max", "avgmax" (the mean of both), "catavgmax" (both), or "" for none.

    Raises:
        UserError: the type is unknown.
    """

    def __init__(self, pool_type: str = "avg") -> None:
        super().__init__()
        if pool_type not in POOL_TYPES:
            raise UserError(
                f"global_pool={pool_type} is not known; choose one of {', '.join(POOL_TYPES[:-1])}, or '' for none."
            )
        self.pool_type = pool_type

    def feat_mult(self) -> int:
        """Return the factor by which channels grow."""
        return 2 if self.pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.pool_type:
            return x
        # Over the last axes, the mean would have a gradient that is not channels_last, and with it the last blocks.
        positions = x.permute(0, 2, 3, 1)
        if self.pool_type == "avg":
            return positions.mean((1, 2))
        if self.pool_type == "max":
            return positions.amax((1, 2))
        mean, largest = positions.mean((1, 2)), positions.amax((1, 2))
        return torch.cat([mean, largest], 1) if self.pool_type == "catavgmax" else (mean + largest) / 2

    def extra_repr(self) -> str:
        return f"pool_type={self.pool_type!r}"


class Backbone(nn.Module):
    """A classifier (B, in_chans, H, W) → (B, num_classes), or (B, head_hidden_size) for num_classes=0.

    A subclass makes its modules, then calls `set_features` and `set_head`.

    Attributes:
        in_chans: channels of the images.
        num_classes: number of logits; 0 without a classifier.
        num_features: channels of `forward_features`.
        head_hidden_size: size of the vector that the classifier gets.
        feature_info: for each map of `forward_intermediates` its channels (num_chs), reduction and module.
        grad_checkpointing: whether activations within blocks are computed twice instead of saved.
    """

    # Name of the linear layer that gives the logits.
    classifier_name = "classifier"
    # Whether further layers stand between the pooling and the classifier, which need their number of channels.
    has_hidden_head = False
    # Whether the maps lie in memory with channels last, or first; None keeps the order of the images.
    channels_last: bool | None = None

    in_chans: int
    num_classes: int
    num_features: int
    head_hidden_size: int
    feature_info: list[dict[str, Any]]
    global_pool: GlobalPool
    grad_checkpointing = False

    @property
    def memory_format(self) -> torch.memory_format | None:
        """Return the order of the maps in memory; None is that of the images.

        torch.save can't store it.
        """
        if self.channels_last is None:
            return None
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def set_features(self, features: Sequence[Feature], *, in_chans: int, num_features: int) -> None:
        """Describe the feature maps.

        Args:
            features: maps of `forward_intermediates`, in order.
            in_chans: channels of the images.
            num_features: channels of `forward_features`.
        """
        self.in_chans, self.num_features = in_chans, num_features
        self.feature_info = [
            {"num_chs": feature.channels, "reduction": feature.reduction, "module": feature.module}
            for feature in features
        ]

    def set_head(self, num_classes: int, global_pool: str) -> None:
        """Remove the classifier for num_classes=0, and choose the pooling; the other layers stay."""
        self.num_classes, self.global_pool = num_classes, GlobalPool(global_pool)
        classifier = self.get_classifier()
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        if self.has_hidden_head and isinstance(classifier, nn.Linear):
            self.head_hidden_size = classifier.in_features
        if num_classes == 0 or global_pool != "avg":
            self.reset_classifier(num_classes, global_pool)

    @property
    def drop_rate(self) -> float:
        """Return the probability of dropping a feature before the classifier."""
        return next((layer.p for layer in reversed([*self.modules()]) if isinstance(layer, nn.Dropout)), 0.0)

    def feature_modules(self) -> list[tuple[str, nn.Module]]:
        """Return names and modules of `forward_features`, in order."""
        raise NotImplementedError

    def hidden_head(self, x: Tensor) -> Tensor:
        """Apply the layers between pooling and classifier, such as dropout."""
        raise NotImplementedError

    def classify(self, x: Tensor) -> Tensor:
        """Compute the logits of the pooled features."""
        return self.get_classifier()(self.hidden_head(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map: (B, num_features, ⌈H / s⌉, ⌈W / s⌉) with the network's stride s."""
        x = lay_out(x, self.memory_format)
        for _, module in self.feature_modules():
            x = module(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute the logits of the last feature map, or with pre_logits the classifier's input.

        Raises:
            UserError: there is a classifier, but no pooling.
        """
        if self.num_classes and not self.global_pool.pool_type:
            raise UserError(UNPOOLED)
        x = self.global_pool(x)
        return self.hidden_head(x) if pre_logits else self.classify(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute several feature maps at once.

        Args:
            x: (B, in_chans, H, W).
            indices: indices of feature_info, negative ones counted from the end; a number n for the last n; None for
                all.
            norm: ignored; these networks have no norm behind their features.
            stop_early: run no module behind the last of these maps; the first result is then that map.
            output_fmt: "NCHW".
            intermediates_only: return the maps alone.

        Returns:
            The result of `forward_features` and the list of maps, or the list alone.

        Raises:
            UserError: an index is out of range, or the format is another.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt={output_fmt} is not known; these networks have feature maps in NCHW.")
        chosen = take_indices(len(self.feature_info), indices)
        wanted = {self.feature_info[index]["module"] for index in chosen}
        last = self.feature_info[max(chosen)]["module"]
        stop = intermediates_only or (stop_early and max(chosen) < len(self.feature_info) - 1)
        maps = {}
        x = lay_out(x, self.memory_format)
        for name, module in self.feature_modules():
            x = module(x)
            if name in wanted:
                maps[name] = x
            if stop and name == last:
                break
        # In the network's order, each once, as timm's.
        intermediates = [maps[info["module"]] for info in self.feature_info if info["module"] in maps]
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that some feature maps don't need.

        Args:
            indices: as in `forward_intermediates`.
            prune_norm: ignored; these networks have no norm behind their features.
            prune_head: remove the head, which goes in any case if the last map is not among those.

        Returns:
            The indices, from 0.
        """
        chosen = take_indices(len(self.feature_info), indices)
        end = max(chosen) < len(self.feature_info) - 1
        if not end and not prune_head:
            return chosen
        info = self.feature_info[max(chosen)]
        names = [name for name, _ in self.feature_modules()]
        for name in names[names.index(info["module"]) + 1 :]:
            self.set_submodule(name, nn.Identity())
        self.num_features = info["num_chs"]
        self.remove_hidden_head()
        self.reset_classifier(0, "")
        return chosen

    def remove_hidden_head(self) -> None:
        """Remove the layers between pooling and classifier that need their number of channels."""

    def get_classifier(self, name_only: bool = False) -> Any:
        """Return the layer that gives the logits, nn.Identity without a classifier; or its name."""
        return self.classifier_name if name_only else self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, and optionally the pooling.

        Args:
            num_classes: number of logits; 0 for none, so that the network gives what the classifier got.
            global_pool: "avg", "max", "avgmax", "catavgmax" or "", see `GlobalPool`; None keeps the pooling.

        Raises:
            UserError: the number or the pooling is not possible.
        """
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        pool = GlobalPool(pool_type)
        if not isinstance(num_classes, int) or num_classes < 0:
            raise UserError(f"num_classes={num_classes} must be a whole number of at least 0.")
        if num_classes and global_pool == "":
            raise UserError(UNPOOLED)
        if self.has_hidden_head and pool_type in ("", "catavgmax"):
            raise UserError(
                f"global_pool='{pool_type}' does not fit this network, which has a layer between pooling and "
                "classifier: choose avg, max or avgmax."
            )
        self.num_classes, self.global_pool = num_classes, pool.train(self.training)
        if not self.has_hidden_head:
            self.head_hidden_size = self.num_features * pool.feat_mult()
        classifier: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            classifier = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            nn.init.normal_(classifier.weight, std=0.01)
            nn.init.zeros_(classifier.bias)
        self.set_submodule(self.classifier_name, classifier.train(self.training))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save only the blocks' inputs for the backward pass from now on, and compute the rest again: memory for time.

        Outputs, gradients and statistics of batch norms stay the same.
        """
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, BlockSequence):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the parameters' names by depth, for learning rates per layer.

        Args:
            coarse: one group per stage instead of one per block.
        """
        raise NotImplementedError


def take_indices(count: int, indices: Indices) -> list[int]:
    """Return indices from 0 of `forward_intermediates`' argument.

    Raises:
        UserError: one is out of range, or there are none.
    """
    if indices is None:
        indices = count
    chosen = [*range(count - indices, count)] if isinstance(indices, int) else [i % count for i in indices]
    valid = 0 < indices <= count if isinstance(indices, int) else all(-count <= index < count for index in indices)
    if not valid or not chosen:
        raise UserError(
            f"indices={indices} must be a number from 1 to {count}, or indices from {-count} to {count - 1}."
        )
    return chosen
