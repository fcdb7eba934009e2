"""COCO's annotations: what is read, what is left out, and what is said of it."""

import json

import pytest
import torch
from pycocotools import mask as api
from pycocotools.coco import COCO

from lambdanets.data import Coco
from lambdanets.data.batches import ResumableBatchSampler
from lambdanets.data.masks import decode, to_rle
from lambdanets.errors import UserError
from tests.coco import make_coco


def changed(root, change):
    """The set with another validation file."""
    file = root / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return document


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "coco", train=8, val=8)


def test_masks_of_all_forms_are_pycocotools(root):
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    peer = COCO(str(data.annotation_file("val")))
    for place in range(len(data.test_set)):
        scene = data.test_set.images[place]
        for thing in scene.objects:
            ours = decode([to_rle(thing.segmentation, scene.size)], scene.size)[0]
            assert torch.equal(ours, torch.from_numpy(peer.annToMask(peer.anns[thing.id])))
    assert data.classes == ["box", "disc", "bar"]
    assert data.category_ids == [3, 7, 90]


def test_boxes_and_masks_stay_together_through_jitter(root):
    data = Coco(root=str(root), image_size=64, scale_jitter=(0.5, 2.0), max_corrupt=0.0, val_size=2)
    data.setup("fit")
    seen = 0
    for index in range(len(data.train_set)):
        for seed in range(5):
            image, target = data.train_set[index, seed]
            assert max(image.shape[1:]) <= 64
            assert target["boxes"].dtype == torch.float32
            assert target["masks"].shape[1:] == image.shape[1:]
            for box, mask in zip(target["boxes"], target["masks"], strict=True):
                rows, columns = mask.nonzero(as_tuple=True)
                extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert (box - extent).abs().max() <= 2
                seen += 1
    assert seen > 20


def test_crowds_are_not_learnt_but_asked_and_images_may_be_empty(root):
    data = Coco(root=str(root), max_corrupt=0.0, scale_jitter=(1, 1), flip=0)
    data.setup("test")
    empty = data.test_set[1][1]
    assert empty["boxes"].shape == (0, 4)
    scene = next(s for s in map(data.test_set.images.__getitem__, range(8)) if any(o.crowd for o in s.objects))
    image = torch.zeros(3, *scene.size, dtype=torch.uint8)
    assert data.evaluation_item(image, scene)[1]["iscrowd"].sum() > 0
    assert len(data.training_item(image, scene)[1]["labels"]) == sum(not thing.crowd for thing in scene.objects)
    none = scene._replace(objects=[])
    assert data.training_item(image, none)[1]["masks"].shape[0] == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 5]), "its box [1, 1, 0, 5] in image 100 is empty"),
        (lambda d: d["annotations"][0].update(category_id=5), "there is no category 5"),
        (lambda d: d["annotations"][0].update(image_id=5), "there is no image 5"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2]]), "fewer than three corners"),
        (lambda d: d["images"][0].update(file_name="gone.jpg"), "gone.jpg' for image 100"),
    ],
)
def test_what_cannot_be_used_is_named_or_left_out(root, tmp_path, change, expected):
    number = changed(root, change)["annotations"][0]["id"]
    with pytest.raises(UserError) as error:
        Coco(root=str(root), max_corrupt=0.0).setup("test")
    assert expected in str(error.value)
    assert str(number) in str(error.value) or "image 100" in str(error.value)
    data = Coco(root=str(root), max_corrupt=0.2)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("test")
    assert len(data.corrupt.file.read_text().splitlines()) == 1


def test_mistakes_with_folders_and_files(root, tmp_path):
    with pytest.raises(UserError, match="There is no .*instances_val2017.json"):
        Coco(root=str(tmp_path / "nowhere")).setup("test")
    file = root / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(UserError, match="can't be read"):
        Coco(root=str(root)).setup("test")


def test_batches_have_one_group_but_for_those_left_over():
    groups = [int(number % 3 == 0) for number in range(100)]
    found = [
        list(ResumableBatchSampler(100, 4, train=True, rank=rank, world_size=2, groups=groups)) for rank in range(2)
    ]
    together = [a + b for a, b in zip(*found, strict=True)]
    assert len(together) == 12
    assert sum(len({groups[index] for index in batch}) == 1 for batch in together) >= 11
    assert len({index for batch in together for index in batch}) == 96


def test_encoding_is_pycocotools():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 20, 30, generator=generator) > 0.5
    from lambdanets.data.masks import encode

    for ours, one in zip(encode(mask), mask, strict=True):
        assert (api.decode(ours) == one.numpy()).all()
