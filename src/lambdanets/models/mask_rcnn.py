"""Mask R-CNN on the skeleton that every mixer shares."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer, Mixer
from lambdanets.models.batch_norm import freeze_batch_norms
from lambdanets.models.resnet import ResNet

# Sides of the maps that RoIAlign extracts for the two heads (He et al. 2017).
BOX_SIDE, MASK_SIDE = 7, 14
# The side of a level's anchors is 8 times its stride, 32 at stride 4; with these ratios (Lin et al. 2017).
ANCHOR_SCALE, ASPECT_RATIOS = 8, (0.5, 1.0, 2.0)
# The usual stride of the skeleton's last stage: global tables fit images padded to multiples of it.
LAST_STRIDE = 32
Detections = list[dict[str, Tensor]]
# For benchmarks: objects per image, about COCO's mean, and the logit of the class that all regions get.
EXAMPLE_OBJECTS, CONFIDENT_LOGIT = 8, 10.0


class Pyramid(nn.Module):
    """The skeleton's stages as a feature pyramid (Lin et al. 2017).

    (B, 3, H, W) → {"0": (B, channels, ⌈H / s₀⌉, ⌈W / s₀⌉), …, "pool": half the size of the last one}, where s are the
    skeleton's feature strides.

    Args:
        body: the skeleton; its classifier is removed.
        channels: channels of each level.
    """

    def __init__(self, body: ResNet, channels: int) -> None:
        super().__init__()
        body.remove_classifier()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_channels, channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(level), stage) for level, stage in enumerate(self.body.features(x))))


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
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
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
        if not torch.is_autocast_enabled(maps.device.type):  # which converts both to float32
            boxes = [box.to(maps.dtype) for box in boxes]
        return super().forward(x, boxes, image_shapes)


class MaskRCNN(detection.MaskRCNN):
    """torchvision's Mask R-CNN (He et al. 2017) on our skeleton: images of any size → losses, or detections.

    Images are padded with zeros to the largest of their batch, and to a multiple of the last stage's stride. Global
    position tables have the size of image_size: a smaller map uses the part of the table that its offsets need, for a
    larger one the table is interpolated. Other mixers with tables, such as attention, interpolate them in any case;
    local scopes fit any map.

    Args:
        mixer: factory of the module in each block's middle.
        backbone: factory of the skeleton, as a partial `ResNet`.
        image_size: (H, W) of the largest images.
        in_channels: channels of the images.
        num_classes: number of classes, without the background.
        norm: batch norms of the backbone: "frozen" keeps their statistics and parameters, "batch" trains them, and for
            "sync" the trainer synchronizes them over all processes.
        channels: channels of the pyramid's levels and of the mask head.
        hidden: width of the box head.
        proposals: regions per image for the box head in evaluation; in training it samples from twice as many.
        detections: largest number of detections in an image.
        score_threshold: lowest score of a detection in evaluation.

    Raises:
        UserError: the strides of the stages don't double, or the norm is unknown.
    """

    cost_note: ClassVar[str] = (
        "Detectors: with all regions that the heads process in evaluation; MiB without those of the targets."
    )
    benchmark_note: ClassVar[str] = (
        f"Detectors train on {EXAMPLE_OBJECTS} objects per image; in inference all regions are of one class, so that "
        "the heads work on as many as they can."
    )

    def __init__(
        self,
        mixer: Mixer,
        *,
        backbone: Callable[..., ResNet],
        image_size: tuple[int, int] = (1024, 1024),
        in_channels: int = 3,
        num_classes: int = 80,
        norm: str = "batch",
        channels: int = 256,
        hidden: int = 1024,
        proposals: int = 1000,
        detections: int = 100,
        score_threshold: float = 0.05,
    ) -> None:
        body = backbone(
            mixer, image_size=round_up_size(image_size, LAST_STRIDE), in_channels=in_channels, num_classes=1
        )
        strides = check_strides(body)
        if norm not in ("frozen", "batch", "sync"):
            raise UserError(f"norm={norm} is not known; choose one of frozen, batch, sync.")
        if norm == "frozen":
            freeze_batch_norms(body)
        for layer in body.modules():
            if isinstance(layer, LambdaLayer):
                layer.expect_smaller_maps()
        levels = [str(level) for level in range(len(strides))]
        super().__init__(
            Pyramid(body, channels),
            rpn_anchor_generator=LevelAnchors((*strides, 2 * strides[-1])),
            rpn_head=FloatRPNHead(channels, len(ASPECT_RATIOS)),
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_post_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_roi_pool=LevelRoIAlign(levels, BOX_SIDE, strides),
            box_head=TwoMLPHead(channels * BOX_SIDE**2, hidden),
            box_predictor=FloatBoxPredictor(hidden, num_classes + 1),
            mask_roi_pool=LevelRoIAlign(levels, MASK_SIDE, strides),
            mask_head=detection.mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes + 1),
            box_detections_per_img=detections,
            box_score_thresh=score_threshold,
        )
        for part in (self.rpn, self.roi_heads):
            part.box_coder = FloatBoxCoder(part.box_coder.weights)
        self.norm = norm
        self.divisor = strides[-1]
        self.proposals, self.detections = proposals, detections

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | Detections:
        """Compute the losses in training, the detections in evaluation.

        Args:
            images: (3, H, W) each, normalized.
            targets: in training, for each image its boxes (N, 4) as x, y, x, y in pixels, labels (N,) from 1 on, and
                masks (N, H, W).

        Returns:
            In training the losses by name: of the region proposals' scores and boxes, and of the heads' classes, boxes
            and masks. In evaluation for each image boxes (N, 4), labels (N,), scores (N,), and masks (N, 1, 28, 28),
            the probability of the object at each point of its box.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch = ImageList(self.transform.batch_images(list(images), self.divisor), sizes)
        features = self.backbone(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, features, targets)
        detections, losses = self.roi_heads(features, proposals, sizes, targets)
        return {**proposal_losses, **losses} if self.training else detections

    @property
    def skeleton(self) -> ResNet:
        """The ResNet below the pyramid, which loads the weights of model.backbone_ckpt."""
        return self.backbone.body

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part, in order."""
        body, heads = self.skeleton, self.roi_heads
        return {
            "stem": [body.stem],
            **{f"stage {index}": [stage] for index, stage in enumerate(body.stages, 1)},
            "pyramid": [self.backbone.fpn],
            "proposals": [self.rpn.head],
            "box head": [heads.box_head, heads.box_predictor],
            "mask head": [heads.mask_head, heads.mask_predictor],
        }

    def dense(self, images: Tensor) -> Any:
        """Compute all heads for as many regions as there may be, whatever is in the images: (B, 3, H, W).

        The box head gets as many regions as there are proposals, the mask head as many as there may be detections.
        """
        features = list(self.backbone(images).values())
        regions = [
            images.new_empty(len(images) * count, self.backbone.out_channels, side, side)
            for count, side in ((self.proposals, BOX_SIDE), (self.detections, MASK_SIDE))
        ]
        heads = self.roi_heads
        boxes = heads.box_predictor(heads.box_head(regions[0]))
        return self.rpn.head(features), boxes, heads.mask_predictor(heads.mask_head(regions[1]))

    def saturate(self) -> None:
        """Change the weights so that an untrained network works on as many regions as it can.

        All anchors score alike and every region is one class. Random weights would instead detect anything from none
        to all of the candidates, depending on the backbone.
        """
        predictor = self.roi_heads.box_predictor
        with torch.no_grad():
            for layer in (self.rpn.head.cls_logits, self.rpn.head.bbox_pred, predictor.cls_score, predictor.bbox_pred):
                layer.weight.zero_()
                layer.bias.zero_()
            predictor.cls_score.bias[1] = CONFIDENT_LOGIT

    def example_batch(self, images: Tensor) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return images, given as (B, 3, H, W), with the same targets in each, as `forward` takes them in training."""
        return list(images), [example_target(image) for image in images]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the backbone; the number of regions, and with it the heads' sizes, differs from image to image."""
        self.backbone.compile(*args, **kwargs)


def check_strides(body: ResNet) -> list[int]:
    """Return the strides of the stages' features.

    Raises:
        UserError: they don't double from stage to stage.
    """
    strides = body.feature_strides
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(
            f"model=mask_rcnn needs features whose strides double from stage to stage, but got strides {strides}: set "
            "model.backbone.strides, for example to [1,2,2,2]."
        )
    return strides


def round_up_size(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    height, width = size
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def example_target(image: Tensor) -> dict[str, Tensor]:
    """Return a target of rectangles of all sizes, from a 32nd to half of the sides of an image (3, H, W)."""
    height, width = image.shape[-2:]
    sides = torch.logspace(-5, -1, EXAMPLE_OBJECTS, base=2)
    corners = (1 - sides) * torch.linspace(0, 1, EXAMPLE_OBJECTS)
    boxes = torch.stack([corners * width, corners * height, (corners + sides) * width, (corners + sides) * height], 1)
    masks = torch.zeros(EXAMPLE_OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {"boxes": boxes, "labels": torch.ones(EXAMPLE_OBJECTS, dtype=torch.int64), "masks": masks}
    return {name: tensor.to(image.device) for name, tensor in target.items()}
