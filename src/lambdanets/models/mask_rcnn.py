"""Mask R-CNN on the skeleton that every mixer shares."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lambdanets.errors import UserError
from lambdanets.mixers import LambdaLayer, Mixer
from lambdanets.models.batch_norm import freeze_batch_norms
from lambdanets.models.boxes import (
    ASPECT_RATIOS,
    FloatBoxCoder,
    FloatBoxPredictor,
    FloatRPNHead,
    LevelAnchors,
    LevelRoIAlign,
)
from lambdanets.models.resnet import ResNet

# Sides of the maps that RoIAlign extracts for the two heads (He et al. 2017).
BOX_SIDE, MASK_SIDE = 7, 14
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
