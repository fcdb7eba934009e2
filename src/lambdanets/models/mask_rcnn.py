"""Mask R-CNN on the skeleton that every mixer shares."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer, Mixer
from lambdanets.models.frozen_batch_norm import freeze_batch_norms
from lambdanets.models.resnet import ResNet

# Sides of the maps that RoIAlign cuts out for the two heads (He et al. 2017).
BOX_SIDE, MASK_SIDE = 7, 14
# Anchors of a level have 8 times its stride as their side, 32 at stride 4, in these ratios (Lin et al. 2017).
ANCHOR, RATIOS = 8, (0.5, 1.0, 2.0)
# Of the skeleton's last stage, as a rule: what global tables count on when they are made.
LAST_STRIDE = 32
Detections = list[dict[str, Tensor]]
# For benchmarks: objects per image, about COCO's mean, and the logit of the class that all regions get.
EXAMPLE_OBJECTS, CONFIDENT_LOGIT = 8, 10.0


class Pyramid(nn.Module):
    """The skeleton's stages as a feature pyramid (Lin et al. 2017).

    (B, 3, H, W) → {"0": (B, channels, ⌈H / s₀⌉, ⌈W / s₀⌉), …, "pool": of half the last one's size}, with s the
    skeleton's feature strides.

    Args:
        body: the skeleton; its classifier is left out.
        channels: of each level.
    """

    def __init__(self, body: ResNet, channels: int) -> None:
        super().__init__()
        body.dropout, body.classifier = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_channels, channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(level), stage) for level, stage in enumerate(self.body.features(x))))


class MaskRCNN(detection.MaskRCNN):
    """torchvision's Mask R-CNN (He et al. 2017) on our skeleton: images of any size → losses, or what is in them.

    Images are padded with zeros to the largest of their batch, and to a multiple of the last stage's stride. Global
    position tables are made for image_size and cover all smaller maps: a smaller map takes the part of the table that
    its offsets need, a larger one stretches it. Mixers with tables of their own kind, such as attention, interpolate
    them; local scopes fit any map.

    Args:
        mixer: factory of the module in each block's middle.
        backbone: factory of the skeleton, as a partial `ResNet`.
        image_size: (H, W) of the largest images.
        in_channels: channels of the images.
        num_classes: number of classes, without the background.
        norm: batch norms of the backbone: "frozen" as they come, "batch", or "sync", which is "batch" in this module
            and made one over all processes by the trainer.
        channels: of the pyramid's levels and of the mask head.
        hidden: width of the box head.
        proposals: regions an image that the box head looks at in evaluation; twice as many are drawn from in training.
        detections: the most objects that are found in an image.
        score_threshold: objects with less are left out, in evaluation.

    Raises:
        UserError: the strides of the stages don't double, or an unknown norm.
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
                layer.crops = True
        levels = [str(level) for level in range(len(strides))]
        super().__init__(
            Pyramid(body, channels),
            rpn_anchor_generator=AnchorGenerator(
                tuple((ANCHOR * stride,) for stride in (*strides, 2 * strides[-1])), (RATIOS,) * (len(strides) + 1)
            ),
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_post_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_roi_pool=pooler(levels, strides, BOX_SIDE),
            box_head=TwoMLPHead(channels * BOX_SIDE**2, hidden),
            box_predictor=detection.faster_rcnn.FastRCNNPredictor(hidden, num_classes + 1),
            mask_roi_pool=pooler(levels, strides, MASK_SIDE),
            mask_head=detection.mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes + 1),
            box_detections_per_img=detections,
            box_score_thresh=score_threshold,
        )
        self.norm = norm
        self.divisor = strides[-1]
        self.proposals, self.detections = proposals, detections

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | Detections:
        """The losses in training, the objects in evaluation.

        Args:
            images: (3, H, W) each, normalized.
            targets: in training, for each image its boxes (N, 4) as x, y, x, y in pixels, labels (N,) from 1 on, and
                masks (N, H, W).

        Returns:
            By name, the losses of the region proposals' scores and boxes, and of the heads' classes, boxes and masks;
            or for each image boxes (N, 4), labels (N,), scores (N,), and masks (N, 1, 28, 28): the probability of the
            object within its box.
        """
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        batch = ImageList(self.transform.batch_images(list(images), self.divisor), sizes)
        features = self.backbone(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, features, targets)
        found, losses = self.roi_heads(features, proposals, sizes, targets)
        return {**proposal_losses, **losses} if self.training else found

    @property
    def skeleton(self) -> ResNet:
        """The ResNet below the pyramid, which loads the weights of model.backbone_ckpt."""
        return self.backbone.body

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part, in order."""
        body, heads = self.skeleton, self.roi_heads
        return {
            "stem": [body.stem],
            **{f"stage {number}": [stage] for number, stage in enumerate(body.stages, 1)},
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
        """Compiles the backbone; the heads work on another number of regions each time."""
        self.backbone.compile(*args, **kwargs)


def check_strides(body: ResNet) -> list[int]:
    """The strides of the stages' features.

    Raises:
        UserError: they don't double from stage to stage.
    """
    strides = body.feature_strides
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise UserError(
            f"model=mask_rcnn needs stages of which each halves its maps, and these have strides {strides} against the "
            "image: set model.backbone.strides, such as [1,2,2,2]."
        )
    return strides


def pooler(levels: list[str], strides: list[int], side: int) -> MultiScaleRoIAlign:
    """RoIAlign from the level that fits a region's size.

    torchvision would guess the levels' scales from the first batch, wrongly where an image is mostly padding.
    """
    pool = MultiScaleRoIAlign(levels, side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    first, last = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
    pool.map_levels = initLevelMapper(first, last, canonical_scale=pool.canonical_scale)
    return pool


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
