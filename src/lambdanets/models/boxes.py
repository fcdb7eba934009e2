"""Parts of detectors that compute boxes: in float32 in any precision, and with the known strides of the levels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

# The side of a level's anchors is 8 times its stride, 32 at stride 4; with these ratios (Lin et al. 2017).
ANCHOR_SCALE, ASPECT_RATIOS = 8, (0.5, 1.0, 2.0)


class LevelAnchors(AnchorGenerator):
    """Anchors of the levels, with known strides and in float32, also for maps of half precision.

    torchvision divides an image's side by that of a map, which fails where the map's side was rounded up. Its anchors
    have the data type of the maps, and in bfloat16 neighbors from 512 pixels on are 4 pixels apart.

    Args:
        strides: strides of the levels.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__(tuple((ANCHOR_SCALE * stride,) for stride in strides), (ASPECT_RATIOS,) * len(strides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image, (N, 4) as x, y, x, y, level after level."""
        dtype, device = torch.promote_types(feature_maps[0].dtype, torch.float32), feature_maps[0].device
        self.set_cell_anchors(dtype, device)
        # On the CPU: a copy to a GPU would wait for it.
        strides = [[torch.tensor(stride)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([[*maps.shape[-2:]] for maps in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class FloatBoxCoder(BoxCoder):
    """torchvision's coding of boxes as offsets to others, in float32: in bfloat16, boxes would move by some pixels."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        dtype = torch.promote_types(rel_codes.dtype, torch.float32)
        return super().decode_single(rel_codes.to(dtype), boxes.to(dtype))


class FloatRPNHead(RPNHead):
    """torchvision's head of the region proposals, with scores in float32, which NMS and the losses compare."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, offsets = super().forward(x)
        return [to_float(score) for score in scores], [to_float(offset) for offset in offsets]


class FloatBoxPredictor(detection.faster_rcnn.FastRCNNPredictor):
    """torchvision's predictor of classes and boxes, with outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, offsets = super().forward(x)
        return to_float(scores), to_float(offsets)


def to_float(x: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LevelRoIAlign(MultiScaleRoIAlign):
    """RoIAlign from the level that fits a region's size, with known strides of the levels.

    torchvision estimates the levels' scales from the first batch, which fails for an image that is mostly padding.

    Args:
        levels: names of the levels.
        side: H and W of the output.
        strides: strides of the levels.
    """

    def __init__(self, levels: list[str], side: int, strides: list[int]) -> None:
        super().__init__(levels, side, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        first, last = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
        self.map_levels = initLevelMapper(first, last, canonical_scale=self.canonical_scale)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        maps = next(iter(x.values()))
        if torch.is_autocast_enabled(maps.device.type):  # which converts both to float32
            return super().forward(x, boxes, image_shapes)
        dtype = torch.promote_types(maps.dtype, torch.float32)
        x = {name: level.to(dtype) for name, level in x.items()}
        boxes = [box.to(dtype) for box in boxes]
        return super().forward(x, boxes, image_shapes).to(maps.dtype)
