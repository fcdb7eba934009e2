"""Steps of a detector, the same work whatever its backbone sees."""

import torch
from torch import Tensor, nn

from lambdanets.benchmarks.measure import Setting, Step
from lambdanets.models import MaskRCNN

OBJECTS = 8  # an image, about COCO's mean
CONFIDENT_LOGIT = 10.0  # logit of the class that is found everywhere


def saturate_detector(model: MaskRCNN) -> MaskRCNN:
    """Makes what an untrained detector finds independent of its backbone.

    All anchors score alike and every region is one class, so that the heads see as many regions as they can: 1,000 and
    100 as a rule. What an untrained one finds would be anything from none to all of its 80,000 candidates.
    """
    predictor = model.roi_heads.box_predictor
    with torch.no_grad():
        for layer in (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, predictor.cls_score, predictor.bbox_pred):
            layer.weight.zero_()
            layer.bias.zero_()
        predictor.cls_score.bias[1] = CONFIDENT_LOGIT
    return model


def detection_step(setting: Setting, model: nn.Module, images: Tensor) -> Step:
    """Forward and backward of the losses for the same objects in each image of (B, 3, H, W)."""
    targets = [objects(image) for image in images]

    def step() -> None:
        model.train().zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=setting.precision == "bfloat16"):
            losses = model(list(images), targets)
        torch.stack(list(losses.values())).sum().backward()

    return step


def objects(image: Tensor) -> dict[str, Tensor]:
    """Rectangles of all sizes, the smallest a 32nd of the image, the largest half of it."""
    height, width = image.shape[-2:]
    sides = torch.logspace(-5, -1, OBJECTS, base=2)
    corners = (1 - sides) * torch.linspace(0, 1, OBJECTS)
    boxes = torch.stack([corners * width, corners * height, (corners + sides) * width, (corners + sides) * height], 1)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.ones(OBJECTS, dtype=torch.int64)
    target = {"boxes": boxes, "labels": labels, "masks": masks}
    return {name: tensor.to(image.device) for name, tensor in target.items()}
