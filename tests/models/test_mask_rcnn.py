"""Mask R-CNN with any mixer, on images of any size."""

from functools import partial

import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.mixers import SE, Attention, Conv, LambdaLayer
from lambdanets.models import CompositeNetwork, EfficientNet, MaskRCNN, ResNet

SMALL = partial(ResNet, depth=[1, 1, 1, 1], width=0.25)


def detector(mixer, **options):
    torch.manual_seed(0)
    backbone = options.pop("backbone", SMALL)
    return MaskRCNN(
        mixer, backbone=backbone, image_size=(128, 128), num_classes=3, channels=16, hidden=32, proposals=50, **options
    )


@pytest.mark.parametrize(
    "mixer",
    [
        Conv,
        SE(4),
        partial(Attention, heads=2),
        partial(LambdaLayer, heads=2),
        partial(LambdaLayer, heads=2, scope="global"),
    ],
)
@pytest.mark.parametrize("size", [(128, 128), (1, 128), (97, 33), (8, 8)])
def test_detections_are_within_images_of_any_size(mixer, size):
    model = detector(mixer).eval()
    model.saturate()
    (detections,) = model([torch.randn(3, *size)])
    assert set(detections) == {"boxes", "labels", "scores", "masks"}
    boxes = detections["boxes"]
    assert len(boxes) > 0
    assert (boxes >= 0).all()
    assert (boxes[:, 2::2] <= size[1]).all()
    assert (boxes[:, 3::2] <= size[0]).all()


def test_images_without_objects_have_losses():
    model = detector(Conv)
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 64, 64)}
    losses = model([torch.randn(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_smaller_map_uses_the_middle_of_a_global_table():
    torch.manual_seed(0)
    options = {"heads": 2, "scope": "global", "batch_norm": False, "content": False}
    large = LambdaLayer(16, feature_size=(9, 7), crop_table=True, **options).double().eval()
    small = LambdaLayer(16, feature_size=(5, 4), **options).double().eval()
    with torch.no_grad():
        small.qkv.weight.copy_(large.qkv.weight)
        small.table.copy_(large.table[:, :, 4:13, 3:10])
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(large(x), small(x))


def test_mistakes():
    with pytest.raises(UserError, match=r"strides \[4, 4, 8, 16\]"):
        detector(Conv, backbone=partial(SMALL, strides=[1, 1, 2, 2]))
    with pytest.raises(UserError, match="norm=group is not known"):
        detector(Conv, norm="group")


def test_a_saturated_detector_detects_as_much_as_it_may_on_any_backbone():
    torch.manual_seed(0)
    backbone = partial(ResNet, depth=[1, 1], layout="CC", strides=[1, 2], width=0.25)
    model = MaskRCNN(Conv, backbone=backbone, image_size=(64, 64), channels=8, hidden=16, proposals=40, detections=10)
    model.saturate()
    images, targets = model.example_batch(torch.randn(2, 3, 64, 64))
    for target in targets:
        left, top, right, bottom = target["boxes"].round().int().unbind(1)
        assert target["masks"].sum((1, 2)).tolist() == ((right - left) * (bottom - top)).tolist()
    losses = model.train()(images, targets)
    assert len(losses) == 5
    assert all(loss.isfinite() for loss in losses.values())
    assert [len(detections["labels"]) for detections in model.eval()(images)] == [10, 10]


def test_only_the_detector_is_a_composite_network():
    model = detector(Conv)
    assert isinstance(model, CompositeNetwork)
    assert model.skeleton is model.backbone.body
    owned = {id(p) for modules in model.parts().values() for module in modules for p in module.parameters()}
    assert owned == {id(p) for p in model.parameters()}
    assert not isinstance(SMALL(Conv, image_size=(32, 32)), CompositeNetwork)
    assert not isinstance(EfficientNet(), CompositeNetwork)
