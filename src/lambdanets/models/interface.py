"""The protocol of networks that costs, benchmarks and fine-tuning don't treat as one plain classifier."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class CompositeNetwork(Protocol):
    """A network of heads on a backbone, whose work depends on the content of the images.

    Attributes:
        cost_note: how `dense` counts the network, for a table's notes.
        benchmark_note: how the network is measured, for a table's notes.
    """

    cost_note: ClassVar[str]
    benchmark_note: ClassVar[str]

    @property
    def skeleton(self) -> nn.Module:
        """The classifier without its head that loads the weights of model.backbone_ckpt."""

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part, in order."""

    def dense(self, images: Tensor) -> Any:
        """Compute all heads for as many regions as there may be, whatever is in the images: (B, C, H, W)."""

    def saturate(self) -> None:
        """Change the weights so that an untrained network works on as many regions as it can."""

    def example_batch(self, images: Tensor) -> tuple[Any, ...]:
        """Return the arguments of a training step, which gives losses by name: images (B, C, H, W) with targets."""
