"""benchmark=mobilenet_search: which blocks of MobileNets, with which lambda layers, have the published sizes."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from lambdanets.benchmarks.measure import Setting
from lambdanets.benchmarks.result import Result
from lambdanets.costs.count import ModelCost, count_costs, sum_costs
from lambdanets.errors import UserError
from lambdanets.mixers import LambdaConv
from lambdanets.models import MobileNet
from lambdanets.models.mobilenet import InvertedBottleneck, split_block
from lambdanets.progress import progress_bar
from lambdanets.reports.published import published_value, row_label
from lambdanets.table import TableRow

CHANNELS = ("input", "half", "expanded")


class Design(NamedTuple):
    """The lambda convolution of a block.

    Attributes:
        key_depth: k.
        heads: h.
        scope: r.
        channels: its channels: as many as the block's "input" has, "half" of the expanded ones, or all "expanded" ones.
    """

    key_depth: int
    heads: int
    scope: int
    channels: str


@dataclass(frozen=True)
class Size:
    """The size of a network, or a difference of two.

    Args:
        parameters: in millions.
        flops: in millions, of one image, in the paper's order of products.
    """

    parameters: float
    flops: float

    @staticmethod
    def of(cost: ModelCost) -> "Size":
        return Size(cost.parameters / 1e6, cost.paper_flops / 1e6)

    @staticmethod
    def published(experiment: str) -> "Size":
        parameters, flops = (published_value(experiment, quantity) for quantity in ("params", "flops"))
        if parameters is None or flops is None:
            raise UserError(f"{experiment} has no published parameters and FLOPs: name another experiment.")
        return Size(parameters.value, 1e3 * flops.value)

    def __add__(self, other: "Size") -> "Size":
        return Size(self.parameters + other.parameters, self.flops + other.flops)

    def __sub__(self, other: "Size") -> "Size":
        return Size(self.parameters - other.parameters, self.flops - other.flops)

    def distance(self, other: "Size") -> float:
        """Return the sum of both differences, in units of the last printed digit: 0.01 M parameters and 1 MFLOP."""
        return abs(self.parameters - other.parameters) / 0.01 + abs(self.flops - other.flops)


@dataclass(frozen=True)
class Candidate:
    """A LambdaMobileNet.

    Args:
        blocks: numbers of the blocks with the lambda convolution, from 1.
        design: the lambda convolution.
        size: of the network, as counted.
        distance: of the size to the published one, if FLOPs are shifted as much as those of the plain network.
        alike: number of sets of blocks with this size; 0 if not counted.
    """

    blocks: tuple[int, ...]
    design: Design
    size: Size
    distance: float
    alike: int = 0


class Search:
    """Counts LambdaMobileNets of one variant.

    Args:
        variant: of `MobileNet`.
        plain: experiment of the plain network.
        target: experiment whose published size is sought.
        image_size: (H, W).
    """

    def __init__(self, variant: str, *, plain: str, target: str, image_size: tuple[int, int]) -> None:
        self.variant = variant
        self.target = target
        self.published = Size.published(target)
        with torch.device("meta"):
            self.network = MobileNet(variant=variant, image_size=image_size)
        self.plain = Size.of(
            sum_costs(count_costs(partial(MobileNet, variant=variant), channels=3, image_size=image_size))
        )
        self.shift = Size(0, Size.published(plain).flops - self.plain.flops)
        self.sizes: dict[str, Size] = {}  # of blocks; some of a network are equal

    @property
    def block_count(self) -> int:
        return len(self.network.feature_sizes)

    def block_size(self, number: int, design: Design | None) -> Size | None:
        """Count a block, with its depthwise convolution for None; None if the heads don't divide its channels."""
        block = self.network.features[number]
        expand, depthwise, _ = split_block(block)
        height, width = (side * depthwise[0].stride[0] for side in self.network.feature_sizes[number])
        key = f"{block} {height} {width} {design}"
        if key not in self.sizes:
            make: Any = lambda: block  # noqa: E731
            in_channels = (expand or depthwise)[0].in_channels
            if design is not None:
                expanded = depthwise[0].in_channels
                channels = {"input": in_channels, "half": expanded // 2, "expanded": expanded}[design.channels]
                if channels % design.heads:
                    return None
                layer = partial(LambdaConv, scope=design.scope, key_depth=design.key_depth, heads=design.heads)
                make = partial(
                    InvertedBottleneck,
                    block,
                    layer,
                    gate=None,
                    expansion=channels / in_channels,
                    feature_size=(height, width),
                )
            costs = count_costs(make, channels=in_channels, image_size=(height, width))
            self.sizes[key] = Size.of(sum_costs(costs))
        return self.sizes[key]

    def count(self, blocks: Sequence[int], design: Design) -> Candidate | None:
        """Count the network with lambda convolutions in these blocks, None if the heads don't divide the channels."""
        size = self.plain
        for number in blocks:
            mixed, plain = self.block_size(number, design), self.block_size(number, None)
            if mixed is None or plain is None:
                return None
            size = size + mixed - plain
        return Candidate(tuple(blocks), design, size, (size + self.shift).distance(self.published))

    def candidates(self, design: Design) -> list[Candidate]:
        """Return the networks with one, two or a sequence of blocks of this design, the nearest first.

        Of several sets of blocks with the same size, the last one stands for all.
        """
        by_size: dict[tuple[int, int], list[Candidate]] = defaultdict(list)
        for blocks in block_sets(self.block_count):
            if candidate := self.count(blocks, design):
                size = candidate.size
                by_size[round(1e6 * size.parameters), round(1e6 * size.flops)].append(candidate)
        best = [
            Candidate(alike[-1].blocks, design, alike[-1].size, alike[-1].distance, len(alike))
            for alike in by_size.values()
        ]
        return sorted(best, key=lambda candidate: candidate.distance)

    def row(self, group: str, candidate: Candidate) -> TableRow:
        design, shifted = candidate.design, candidate.size + self.shift
        return {
            "search": group,
            "network": row_label(self.target),
            "blocks": format_blocks(candidate.blocks),
            "alike": str(candidate.alike or "") or None,
            "channels": design.channels,
            "k": str(design.key_depth),
            "h": str(design.heads),
            "scope": f"{design.scope}×{design.scope}",
            "M parameters": f"{candidate.size.parameters:.3f}",
            "published M": f"{self.published.parameters:.2f}",
            "MFLOPs": f"{candidate.size.flops:.1f}",
            "shifted": f"{shifted.flops:.1f}",
            "published MFLOPs": f"{self.published.flops:.0f}",
            "as printed": self.agreement(candidate),
            "distance": candidate.distance,
        }

    def agreement(self, candidate: Candidate) -> str:
        """Return which numbers of a candidate round to the published ones."""
        difference = candidate.size + self.shift - self.published
        agrees = {"parameters": abs(difference.parameters) <= 0.005, "FLOPs": abs(difference.flops) <= 0.5}
        return ", ".join(quantity for quantity, value in agrees.items() if value) or "neither"


def search_mobilenets(
    setting: Setting,
    *,
    networks: Mapping[str, Sequence[str]],
    key_depths: Sequence[int],
    heads: Sequence[int],
    scopes: Sequence[int],
    channels: Sequence[str],
    named: Mapping[str, Mapping[str, Any]],
    show: int,
    side: int = 224,
) -> Result:
    """Count MobileNets with lambda convolutions in one, two or a sequence of blocks, and list those of published size.

    Args:
        setting: conditions of measurements; nothing is measured here.
        networks: by variant of `MobileNet`, the experiments of the plain network and of the one that is sought.
        key_depths: k.
        heads: h.
        scopes: r.
        channels: of the lambda convolutions, see `Design`.
        named: further networks to list by name: key_depth, heads, scope, channels, and the blocks by variant.
        show: how many of the nearest networks are listed.
        side: of the images.

    Returns:
        The nearest networks of each variant, the designs that come nearest in all variants, and the named ones.

    Raises:
        UserError: a kind of channels is unknown, or a network has no published size.
    """
    if unknown := sorted({*channels, *(entry["channels"] for entry in named.values())} - set(CHANNELS)):
        raise UserError(f"channels={unknown} are not known; choose among {', '.join(CHANNELS)}.")
    searches = {
        variant: Search(variant, plain=plain, target=target, image_size=(side, side))
        for variant, (plain, target) in networks.items()
    }
    designs = [Design(*values) for values in itertools.product(key_depths, heads, scopes, channels)]
    nearest = {
        design: {variant: search.candidates(design)[:show] for variant, search in searches.items()}
        for design in progress_bar(designs, "designs")
    }
    result = Result(
        "Blocks and lambda convolutions of LambdaMobileNets, by counting",
        [*next(iter(searches.values())).row("", Candidate((), designs[0], Size(0, 0), 0))],
        setting=setting,
    )
    for variant, search in searches.items():
        candidates = [candidate for by_variant in nearest.values() for candidate in by_variant[variant]]
        for candidate in sorted(candidates, key=lambda candidate: candidate.distance)[:show]:
            result.rows.append(search.row("one network", candidate))
    common = [[*by_variant.items()] for by_variant in nearest.values() if all(by_variant.values())]
    for by_variant in sorted(common, key=lambda pairs: sum(found[0].distance for _, found in pairs))[:show]:
        result.rows += [searches[variant].row("one design for both", found[0]) for variant, found in by_variant]
    for name, entry in named.items():
        design = Design(entry["key_depth"], entry["heads"], entry["scope"], entry["channels"])
        for variant, blocks in entry["blocks"].items():
            if counted := searches[variant].count(blocks, design):
                result.rows.append(searches[variant].row(name, counted))
    result.notes += notes(searches)
    return result


def block_sets(count: int) -> Iterator[tuple[int, ...]]:
    """Yield one, two and sequences of the blocks 2 to `count`; the first block of a MobileNet has no expansion."""
    numbers = range(2, count + 1)
    yield from itertools.combinations(numbers, 1)
    yield from itertools.combinations(numbers, 2)
    yield from (tuple(range(first, last + 1)) for first in numbers for last in range(first + 2, count + 1))


def format_blocks(blocks: Sequence[int]) -> str:
    """Return a sequence of more than two blocks as 8–17."""
    return f"{blocks[0]}–{blocks[-1]}" if len(blocks) > 2 else ", ".join(map(str, blocks))


def notes(searches: Mapping[str, Search]) -> list[str]:
    shifts = " and ".join(
        f"{search.shift.flops:.1f} M (MobileNet-{variant.replace('_', '-')}: {search.plain.flops:.1f} M)"
        for variant, search in searches.items()
    )
    return [
        "A block with a lambda convolution keeps its 1×1 convolutions; channels are those of the lambda convolution: "
        "as many as the block's input has, half of the expanded ones, or all of them. Alike: sets of blocks of the "
        "same size, for which the last one stands.",
        "FLOPs: one image, two per multiply-add, in the paper's order of products. Shifted: plus what our count of the "
        f"plain network lacks of the published one, {shifts}. We don't know what the paper's count includes; ours has "
        "convolutions and matrix products only.",
        "Distance: of parameters and shifted FLOPs to the published ones, in units of the last printed digit (0.01 M "
        "and 1 MFLOP), added. As printed: which of them, rounded, are the published numbers.",
    ]
