"""Mask R-CNN with any mixer, on images of any size."""

from functools import partial

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from lambdanets.errors import UserError
from lambdanets.mixers import SE, Attention, Conv, LambdaLayer
from lambdanets.models import CompositeNetwork, EfficientNet, MaskRCNN, ResNet
from lambdanets.models.boxes import FloatBoxCoder, LevelAnchors, LevelRoIAlign

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


def test_anchors_have_the_strides_of_their_levels_in_single_precision():
    images = ImageList(torch.zeros(1, 3, 96, 1024), [(96, 1024)])
    maps = [torch.zeros(1, 1, -(-96 // s), 1024 // s, dtype=torch.bfloat16) for s in (4, 8, 16, 32, 64)]
    (anchors,) = LevelAnchors([4, 8, 16, 32, 64])(images, maps)
    assert anchors.dtype is torch.float32
    levels = anchors.view(-1, 3, 4).split([m.shape[2] * m.shape[3] for m in maps])
    for level, stride, m in zip(levels, (4, 8, 16, 32, 64), maps, strict=True):
        centers = (level[:, :, :2] + level[:, :, 2:]) / 2
        y, x = (torch.arange(side) * float(stride) for side in m.shape[2:])
        expected = torch.stack([x.repeat(len(y)), y.repeat_interleave(len(x))], 1)
        assert torch.equal(centers, expected[:, None].expand(-1, 3, -1))
        areas = (level[:, :, 2:] - level[:, :, :2]).prod(2)
        torch.testing.assert_close(areas, torch.full_like(areas, (8 * stride) ** 2), rtol=0.1, atol=0)


def test_boxes_are_not_rounded_to_half_precision():
    boxes = torch.rand(100, 2) * 900
    boxes = torch.cat([boxes, boxes + 20 + 50 * torch.rand(100, 2)], 1)
    decoded = FloatBoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(torch.zeros(100, 4, dtype=torch.bfloat16), boxes)
    torch.testing.assert_close(decoded, boxes, rtol=0, atol=1e-3)


def test_regions_of_maps_in_half_precision_are_where_their_boxes_are():
    align = LevelRoIAlign(["0"], 7, [16])
    maps, boxes = torch.randn(1, 2, 64, 64, dtype=torch.bfloat16), torch.tensor([[513.3, 601.7, 958.1, 1003.9]])
    regions = align({"0": maps}, [boxes], [(1024, 1024)])
    expected = align({"0": maps.float()}, [boxes], [(1024, 1024)])
    assert torch.equal(regions, expected.bfloat16())


def test_detections_under_autocast_have_boxes_of_single_precision():
    model = detector(Conv).eval()
    model.saturate()
    with torch.autocast("cpu", torch.bfloat16):
        (detections,) = model([torch.randn(3, 128, 96)])
    assert detections["boxes"].dtype is detections["scores"].dtype is torch.float32
    model.train()
    images, targets = model.example_batch(torch.randn(2, 3, 128, 96))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss.dtype is torch.float32 for loss in losses.values())


def test_a_detector_in_double_precision_has_such_boxes():
    model = detector(Conv).double().eval()
    model.saturate()
    (detections,) = model([torch.randn(3, 128, 96, dtype=torch.float64)])
    assert len(detections["boxes"])
    assert detections["boxes"].dtype is torch.float64
