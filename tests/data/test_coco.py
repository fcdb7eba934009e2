"""COCO's annotations: what is read, and what is skipped or rejected."""

import json

import pytest
import torch
from pycocotools.coco import COCO

from lambdanets.data import Coco
from lambdanets.data.masks import decode, to_rle
from lambdanets.errors import UserError
from tests.coco import make_coco


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "coco", train=8, val=8)


def change_annotations(root, change):
    """Change the validation annotations by a function of their content; return the content."""
    file = root / "annotations" / "instances_val2017.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return document


def test_annotations_are_those_that_pycocotools_reads(root):
    data = Coco(root=str(root), max_corrupt=0.0)
    assert data.count_classes() == 3
    data.setup("test")
    assert data.describe_labels() == {"classes": ["box", "disc", "bar"], "category_ids": [3, 7, 90]}
    reference = COCO(str(data.annotation_file("val")))
    for index, image_id in enumerate(sorted(reference.imgs)):
        annotated = data.test_set.images[index]
        image, target = data.test_set[index]
        expected = reference.loadAnns(reference.getAnnIds(image_id))
        assert annotated.id == target["image_id"] == image_id
        assert [annotation.id for annotation in annotated.objects] == [annotation["id"] for annotation in expected]
        for annotation in annotated.objects:
            mask = decode([to_rle(annotation.segmentation, annotated.size)], annotated.size)[0]
            assert torch.equal(mask, torch.from_numpy(reference.annToMask(reference.anns[annotation.id])))
        labels = [data.category_ids[label - 1] for label in target["labels"]]
        assert labels == [annotation["category_id"] for annotation in expected]
        assert target["boxes"].tolist() == [annotation["bbox"] for annotation in expected]
        assert target["area"].tolist() == [annotation["area"] for annotation in expected]
        assert target["iscrowd"].tolist() == [annotation["iscrowd"] for annotation in expected]
        assert max(image.shape[1:]) == 1024


def test_training_targets_are_those_of_evaluation_without_crowds(root):
    data = Coco(root=str(root), image_size=64, max_corrupt=0.0, scale_jitter=(1, 1), flip=0)
    data.setup("test")
    crowds = 0
    for index in range(8):
        annotated = data.test_set.images[index]
        image = torch.zeros(3, *annotated.size, dtype=torch.uint8)
        _, evaluation = data.evaluation_item(image, annotated)
        _, training = data.training_item(image, annotated)
        single = evaluation["iscrowd"] == 0
        crowds += int((~single).sum())
        assert torch.equal(training["labels"], evaluation["labels"][single])
        x, y, width, height = evaluation["boxes"][single].unbind(1)
        assert torch.equal(training["boxes"].double(), torch.stack([x, y, x + width, y + height], 1))
        masks = decode([rle for rle, keep in zip(evaluation["masks"], single, strict=True) if keep], annotated.size)
        assert torch.equal(training["masks"], masks)
    assert crowds > 0
    assert len(data.test_set.images[1].objects) == 0


def test_training_batches_are_all_taller_than_wide_or_none(root):
    data = Coco(root=str(root), image_size=64, batch_size=2, max_corrupt=0.0, scale_jitter=(1, 1), val_size=0)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (8, 8)
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    for images, targets in batches:
        assert len(images) == len(targets) == 2
        assert len({image.shape[1] > image.shape[2] for image in images}) == 1


def test_validation_images_are_held_out_of_the_training_split(root):
    data = Coco(root=str(root), max_corrupt=0.0, val_size=2, limit=7)
    data.setup("fit")
    train, val = ({split.images[i].id for i in range(len(split))} for split in (data.train_set, data.val_set))
    assert (len(train), len(val)) == (5, 2)
    assert train | val == set(range(100, 107))


@pytest.mark.parametrize(
    ("change", "message", "name"),
    [
        (
            lambda d: d["annotations"][0].update(bbox=[1, 1, 0, 5]),
            "its box [1, 1, 0, 5] in image 100 is empty",
            "first",
        ),
        (lambda d: d["annotations"][0].update(category_id=5), "there is no category 5", "first"),
        (lambda d: d["annotations"][0].update(image_id=5), "there is no image 5", "first"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2]]), "fewer than three corners", "first"),
        (lambda d: d["annotations"][0].pop("area"), "it has no area", "first"),
        (lambda d: d["images"][0].update(file_name="gone.jpg"), "gone.jpg' for image 100", "image 100"),
    ],
)
def test_unusable_images_and_annotations_are_errors_or_skipped_and_listed(root, tmp_path, change, message, name):
    first_id = change_annotations(root, change)["annotations"][0]["id"]
    name = f"annotation {first_id}" if name == "first" else name
    with pytest.raises(UserError) as error:
        Coco(root=str(root), max_corrupt=0.0).setup("test")
    assert message in str(error.value)
    assert name in str(error.value).lower()
    data = Coco(root=str(root), max_corrupt=0.2)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("test")
    assert data.corrupt.file.read_text().splitlines() == [name]
    ids = {annotation.id for i in range(len(data.test_set)) for annotation in data.test_set.images[i].objects}
    assert first_id not in ids
    assert len(data.test_set) == (7 if name == "image 100" else 8)
    with pytest.raises(UserError, match="more than data.max_corrupt=0.01 allows"):
        Coco(root=str(root), max_corrupt=0.01).setup("test")


def test_an_image_of_another_size_than_annotated_is_an_error(root):
    change_annotations(root, lambda d: d["images"][1].update(height=50))
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    with pytest.raises(UserError, match=r"Image 101, .*, has 48×64 pixels, but its annotations give 50×64"):
        data.test_set[1]


def test_other_categories_than_those_of_the_run_are_an_error(root):
    data = Coco(root=str(root))
    data.classes = ["box", "disc", "rod"]
    with pytest.raises(UserError, match=r"The categories of .*, such as 'bar', differ from the 3 classes of the run"):
        data.setup("test")


def test_errors_in_folders_and_files(root, tmp_path):
    with pytest.raises(UserError, match=r"There is no .*instances_val2017\.json"):
        Coco(root=str(tmp_path / "nowhere")).setup("test")
    file = root / "annotations" / "instances_val2017.json"
    content = file.read_text()
    file.write_text(content[:100])
    with pytest.raises(UserError, match="can't be read"):
        Coco(root=str(root)).setup("test")
    file.write_text('{"images": []}')
    with pytest.raises(UserError, match="not an annotation file in COCO's format: annotations, categories missing"):
        Coco(root=str(root)).setup("test")
    file.write_text(content)
    (root / "val2017").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"There is no image folder '.*val2017'"):
        Coco(root=str(root)).setup("test")
