"""COCO's annotations: what is read, and what is skipped or rejected."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
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


def test_worker_processes_need_neither_trainer_nor_splits(root):
    data = Coco(root=str(root), max_corrupt=0.0, val_size=0.25)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, schedule=lambda step: 1.0)
    data.setup("fit")
    loader = data.val_dataloader()
    dataset, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    expected, batch = (
        function([split[0], split[1]]) for function, split in ((loader.collate_fn, loader.dataset), (collate, dataset))
    )
    assert all(torch.equal(*pair) for pair in zip(expected[0], batch[0], strict=True))
    assert [target["image_id"] for target in expected[1]] == [target["image_id"] for target in batch[1]]


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


def first_annotation(**values):
    """Return a function that changes the first annotation, of image 100 and a polygon; None removes a key."""
    return lambda d: replace_values(d["annotations"][0], values)


def first_image(**values):
    return lambda d: replace_values(d["images"][0], values)


def replace_values(entry, values):
    for key, value in values.items():
        if value is REMOVED:
            del entry[key]
        else:
            entry[key] = value


REMOVED = object()
NAN, INF = float("nan"), float("inf")
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
# The images are 48×64, that is 3072 pixels.
IMAGE_IS_LEFT_OUT = [
    (first_annotation(bbox=[1, 1, 0, 5]), "its box [1, 1, 0, 5] is empty"),
    (first_annotation(bbox=[]), "its box [] is not four numbers"),
    (first_annotation(bbox=None), "it has no bbox"),
    (first_annotation(bbox=REMOVED, area=REMOVED), "it has no bbox, area"),
    (first_annotation(bbox=[1, NAN, 5, 5]), "its box [1, nan, 5, 5] is not four numbers"),
    (first_annotation(bbox=[1, 1, INF, 5]), "is not four numbers"),
    (first_annotation(bbox=[1, 1, "5", 5]), "its box [1, 1, '5', 5] is not four numbers"),
    (first_annotation(bbox=[1, 1, True, 5]), "is not four numbers"),
    (first_annotation(bbox=[1, 1, 10**400, 5]), "is not four numbers"),
    (first_annotation(bbox={"x": 1}), "is not four numbers"),
    (first_annotation(bbox=[1, 1, 5]), "is not four numbers"),
    (first_annotation(bbox=[10, 10, -5, 5]), "negative width or height"),
    (first_annotation(bbox=[40, 10, 60, 20]), "its box [40, 10, 60, 20] is not inside its image of 64×48 pixels"),
    (first_annotation(bbox=[64, 10, 1, 20]), "is not inside its image"),
    (first_annotation(bbox=[-1, 10, 1, 20]), "is not inside its image"),
    (first_annotation(area=NAN), "its area nan is not"),
    (first_annotation(area=-1), "its area -1 is not"),
    (first_annotation(area="9"), "its area '9' is not"),
    (first_annotation(id=REMOVED), "The annotation at position 0 can't be used, and its image 100 is left out: it has"),
    (first_annotation(id="7"), "its id '7' is not a whole number"),
    (first_annotation(category_id=5), "there is no category 5"),
    (first_annotation(category_id="3"), "there is no category '3'"),
    (first_annotation(category_id=[3]), "there is no category [3]"),
    (first_annotation(category_id=NAN), "there is no category nan"),
    (first_annotation(iscrowd="0"), "its iscrowd '0' is neither 0 nor 1"),
    (first_annotation(iscrowd=None), "its iscrowd None is neither 0 nor 1"),
    (first_annotation(segmentation=[]), "it has no mask"),
    (first_annotation(segmentation="PP"), "neither polygons nor a run-length encoding"),
    (first_annotation(segmentation=SQUARE), "neither polygons nor a run-length encoding"),
    (first_annotation(segmentation=[[1, 2, 3, 4]]), "fewer than three corners"),
    (first_annotation(segmentation=[[*SQUARE, 1]]), "an x without a y"),
    (first_annotation(segmentation=[[NAN, *SQUARE[1:]]]), "far outside of its image of 64×48 pixels, or not finite"),
    (first_annotation(segmentation=[[*SQUARE[:-1], NAN]]), "not finite"),
    (first_annotation(segmentation=[[*SQUARE[:-1], 1e30]]), "far outside of its image"),
    (first_annotation(segmentation=[[*SQUARE[:-1], -(10**400)]]), "far outside of its image"),
    (first_annotation(segmentation=[[*SQUARE[:-1], "5"]]), "a corner that is not two numbers"),
    (first_annotation(segmentation=[[-9, 1, -5, 1, -5, 5, -9, 5]]), "lies outside of its image"),
    (first_annotation(bbox=[20, 20, 9, 9], segmentation=[SQUARE]), "lies outside of its box [20, 20, 9, 9]"),
    (first_annotation(segmentation={"size": [64, 48], "counts": [1, 3071]}), "64×48 pixels, but its image has 48×64"),
    (first_annotation(segmentation={"size": [48, 64], "counts": [1, 3072]}), "don't add up to the 48×64 pixels"),
    (first_annotation(segmentation={"size": [48, 64], "counts": [1, 10**400]}), "don't add up to the 48×64 pixels"),
    (first_annotation(segmentation={"size": [48, 64], "counts": [4, -1, 3069]}), "must be whole numbers from 0 on"),
    (first_annotation(segmentation={"size": [48, 64], "counts": [1.0, 3071]}), "must be whole numbers from 0 on"),
    (first_annotation(segmentation={"size": [48, 64], "counts": [3072]}), "its mask is empty"),
    (first_annotation(segmentation={"size": [48, 64], "counts": ""}), "the counts of its mask are damaged"),
    (first_annotation(segmentation={"size": [48, 64], "counts": "1\u00e92"}), "the counts of its mask are damaged"),
    (first_annotation(segmentation={"size": [48, 64], "counts": "1\ud800"}), "the counts of its mask are damaged"),
    (first_annotation(segmentation={"size": [48, 64], "counts": "PP"}), "the counts of its mask are damaged"),
    (first_annotation(segmentation={"size": [48, 64], "counts": "11"}), "don't add up to the 48×64 pixels"),
    (first_annotation(segmentation={"size": [48, 64], "counts": None}), "neither polygons nor a run-length encoding"),
    (first_annotation(segmentation={"counts": [1, 3071]}), "neither polygons nor a run-length encoding"),
    (first_image(file_name="gone.jpg"), "Image 100 can't be used: there is no file 'gone.jpg' in "),
    (first_image(file_name=7), "its file_name 7 is not a text"),
    (first_image(file_name="a\0b\ud800"), "there is no file 'a\\x00b\\ud800' in "),
    (first_image(file_name="/data/1.jpg"), "its file_name '/data/1.jpg' must be relative to "),
    (first_image(file_name="../train2017/000000000100.png"), "must be relative to "),
    (first_image(file_name="C:\\data\\1.jpg"), "must be relative to "),
    (first_image(height=REMOVED), "it has no height"),
    (first_image(height=NAN), "its height nan and width 64 are not those of an image"),
    (first_image(height="48"), "its height '48' and width 64 are not those of an image"),
    (first_image(height=10**9), "are not those of an image"),
    (first_image(width=-1), "are not those of an image"),
]
ANNOTATION_IS_LEFT_OUT = [
    (first_annotation(bbox=[1, 1, 0, 5], area=0.0), "of image 100 can't be used: its box [1, 1, 0, 5] is empty."),
    (first_annotation(image_id=5), "there is no image with its image_id 5"),
    (first_annotation(image_id=REMOVED), "there is no image with its image_id None"),
    (first_annotation(image_id="100"), "there is no image with its image_id '100'"),
    (first_annotation(image_id=[100]), "there is no image with its image_id [100]"),
    (lambda d: d["annotations"].insert(0, None), "The annotation at position 0 can't be used: there is no image"),
    (lambda d: d["annotations"].insert(1, d["annotations"][0]), " of image 100 is listed twice."),
]


@pytest.mark.parametrize(
    ("change", "message", "images", "annotations"),
    # Of eight images and 18 annotations; the changed image has three of these.
    [(*case, 7, 15) for case in IMAGE_IS_LEFT_OUT]
    + [(*case, 8, 17 + ("insert" in case[0].__code__.co_names)) for case in ANNOTATION_IS_LEFT_OUT],
)
def test_unusable_entries_end_the_run_before_training_or_are_skipped_and_listed(
    root, tmp_path, caplog, change, message, images, annotations
):
    change_annotations(root, change)
    for fraction in (0.0, 0.01):
        with pytest.raises(UserError) as error:
            Coco(root=str(root), max_corrupt=fraction).setup("test")
        assert message in str(error.value)
        assert f"can't be used, more than data.max_corrupt={fraction} allows" in str(error.value)
        assert str(error.value).endswith("Correct the file, or raise data.max_corrupt.")
    data = Coco(root=str(root), image_size=64, max_corrupt=0.2)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("test")
    (line,) = data.corrupt.file.read_text().splitlines()
    assert line.startswith("instances_val2017.json: ")
    assert message in line
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{8 - images} of 8 images are left out" in warning
    assert line.partition(": ")[2] in warning
    decoded = [data.test_set[index] for index in range(len(data.test_set))]
    assert len(decoded) == images
    assert sum(len(target["labels"]) for _, target in decoded) == annotations


def test_an_unusable_image_leaves_the_others_in_their_splits(root):
    def read_ids():
        data = Coco(root=str(root), train="val2017", val_size=3, max_corrupt=0.2)
        data.setup("fit")
        return [{split.images[i].id for i in range(len(split))} for split in (data.train_set, data.val_set)]

    train, val = read_ids()
    assert (len(train), len(val)) == (5, 3)
    change_annotations(root, first_annotation(bbox=None))
    assert read_ids() == [train - {100}, val - {100}]


def test_images_and_annotations_that_share_an_id_or_a_file_are_named(root, tmp_path, caplog):
    def change(document):
        images = document["images"]
        images.append(images[0])
        images.append({**images[1], "id": 200})
        images.append({**images[2], "file_name": images[3]["file_name"], "width": 48, "height": 64})
        document["annotations"][-1]["id"] = document["annotations"][-2]["id"]

    ids = [annotation["id"] for annotation in change_annotations(root, change)["annotations"]]
    data = Coco(root=str(root), max_corrupt=0.9)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("test")
    lines = data.corrupt.file.read_text().splitlines()
    assert [line.removeprefix("instances_val2017.json: ").replace(str(root), "") for line in lines] == [
        "Image 100 is listed twice.",
        "Image 101, '/val2017/000000000101.png', can't be used: another image has the same file.",
        "Image 102, '/val2017/000000000102.png', can't be used: another image has the same id.",
        "Image 103, '/val2017/000000000103.png', can't be used: another image has the same file.",
        "Image 200, '/val2017/000000000101.png', can't be used: another image has the same file.",
        "Image 102, '/val2017/000000000103.png', can't be used: another image has the same id.",
    ]
    assert [data.test_set.images[index].id for index in range(len(data.test_set))] == [100, 104, 105, 106, 107]
    assert f"1 annotation ids, such as {ids[-1]}, are those of several objects" in caplog.text


@pytest.mark.parametrize("separator", ["/", "\\", "//"])
def test_images_may_lie_in_subfolders(root, separator):
    (root / "val2017" / "a" / "b").mkdir(parents=True)
    name = "000000000100.png"
    (root / "val2017" / name).rename(root / "val2017" / "a" / "b" / name)
    change_annotations(root, first_image(file_name=separator.join(["a", "b", name])))
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    assert len(data.test_set) == 8
    assert data.test_set[0][1]["image_id"] == 100


def test_whole_numbers_may_be_written_with_a_point_and_iscrowd_may_be_missing(root):
    expected = Coco(root=str(root), max_corrupt=0.0)
    expected.setup("test")

    def change(document):
        for entry in (*document["images"], *document["annotations"], *document["categories"]):
            for key in ("id", "image_id", "category_id", "height", "width"):
                if key in entry:
                    entry[key] = float(entry[key])
            if entry.get("iscrowd") == 0:
                del entry["iscrowd"]

    change_annotations(root, change)
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    for index in range(8):
        assert data.test_set.images[index] == expected.test_set.images[index]


def test_a_box_that_is_rounded_beyond_the_image_is_kept_as_it_is(root):
    change_annotations(root, first_annotation(bbox=[-0.5, 0, 65, 48.9], segmentation=[[0, 0, 64, 0, 64, 48, 0, 48]]))
    data = Coco(root=str(root), max_corrupt=0.0, image_size=64, scale_jitter=(1, 1), flip=0)
    data.setup("test")
    annotated = data.test_set.images[0]
    assert data.test_set[0][1]["boxes"][0].tolist() == [-0.5, 0, 65, 48.9]
    _, target = data.training_item(torch.zeros(3, 48, 64, dtype=torch.uint8), annotated)
    assert target["boxes"][0].tolist() == [0, 0, 64, 48]


def test_a_data_set_without_objects_is_not_trained_on(root, caplog):
    change_annotations(root, lambda d: d.update(annotations=[]))
    data = Coco(root=str(root), train="val2017", val="val2017", val_size=0, max_corrupt=0.0)
    with pytest.raises(UserError, match="The 8 training images have no objects"):
        data.setup("fit")
    data.setup("test")
    assert "The 8 images for evaluation have no objects: their scores will be -1." in caplog.text
    assert [len(data.test_set[index][1]["labels"]) for index in range(8)] == [0] * 8


def test_an_image_of_another_size_than_annotated_is_an_error(root):
    change_annotations(root, lambda d: d["images"][1].update(height=50))
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    with pytest.raises(
        UserError, match=r"Image 101, .*, has 48×64 pixels, but its annotations give 50×64: correct them"
    ):
        data.test_set[1]


def write_rotated_photo(root, orientation, *, upright):
    """Store image 100, white in the upper left corner and else black, with an EXIF orientation; annotate the corner.

    Args:
        root: folder of the data set; image 100 becomes its only one.
        orientation: of EXIF, from 1 to 8.
        upright: annotate the upright photo, else the pixels as they are stored.

    Returns:
        The pixels that are annotated.
    """
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = root / "val2017" / "000000000100.png"
    Image.fromarray(pixels).save(file, exif=exif)
    annotated = np.array(ImageOps.exif_transpose(Image.open(file))) if upright else pixels
    height, width = annotated.shape[:2]
    y, x = (int(indices.min()) for indices in annotated[..., 0].nonzero())
    annotation = {"image_id": 100, "id": 1, "category_id": 3, "bbox": [x, y, 16, 16], "area": 256, "iscrowd": 0}
    annotation["segmentation"] = [[x, y, x + 16, y, x + 16, y + 16, x, y + 16]]
    image = {"id": 100, "file_name": file.name, "height": height, "width": width}
    change_annotations(root, lambda d: d.update(images=[image], annotations=[annotation]))
    return torch.from_numpy(annotated).permute(2, 0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [True, False])
def test_the_size_in_the_annotations_decides_if_a_photo_is_turned_by_exif(root, orientation, upright):
    # Orientations up to 4 leave the size, which then fits both: the photo is turned.
    annotated = write_rotated_photo(root, orientation, upright=upright or orientation < 5)
    data = Coco(root=str(root), image_size=64, max_corrupt=0.0, scale_jitter=(1, 1), flip=0)
    data.setup("test")
    image, target = data.test_set[0]
    assert torch.equal(image, annotated)
    assert target["size"] == annotated.shape[1:]
    image, target = data.training_set([data.test_set.images[0]])[0, 0]
    assert torch.equal(image[0] > 0, target["masks"][0].bool())
    left, top, right, bottom = target["boxes"][0].int().tolist()
    assert image[:, top:bottom, left:right].min() == 255


def test_a_size_that_fits_neither_the_turned_nor_the_stored_photo_is_named(root):
    write_rotated_photo(root, 6, upright=True)
    change_annotations(root, lambda d: d["images"][0].update(height=70))
    data = Coco(root=str(root), max_corrupt=0.0)
    data.setup("test")
    with pytest.raises(UserError, match=r"Image 100, .* has 64×48 pixels, but its annotations give 70×48"):
        data.test_set[0]


def test_other_categories_than_those_of_the_run_are_an_error(root):
    data = Coco(root=str(root))
    data.classes = ["box", "disc", "rod"]
    with pytest.raises(UserError, match=r"The categories of .*, such as 'bar', differ from the 3 classes of the run"):
        data.setup("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [a.pop("bbox") for a in d["annotations"]], "has no boxes, as if it were for captions"),
        (lambda d: [a.pop("segmentation") for a in d["annotations"]], "has boxes but no masks, and Mask R-CNN learns"),
        (lambda d: [a.update(segmentation=[]) for a in d["annotations"]], "has boxes but no masks, and Mask R-CNN"),
        (lambda d: d.update(annotations={"1": d["annotations"][0]}), "and not a list."),
        (lambda d: d.update(images=None), "its images are None and not a list."),
        (lambda d: d.update(categories=[]), "has no categories"),
        (lambda d: d["categories"][0].pop("name"), "needs an 'id', a whole number, and a 'name'"),
        (lambda d: d["categories"][0].update(name=3), "needs an 'id', a whole number, and a 'name'"),
        (lambda d: d["categories"][0].update(id="3"), "The category {'id': '3', 'name': 'bar'} of "),
        (lambda d: d["categories"].append("bar"), "The category 'bar' of "),
        (lambda d: d["categories"][0].update(id=3), "has two categories with the id 3"),
        (lambda d: d["categories"][0].update(name="box"), "has two categories with the id 3 or the name 'box'"),
        (lambda d: [i.update(id=str(i["id"])) for i in d["images"]], "its id '100' is not a whole number"),
    ],
)
def test_files_of_other_forms_are_refused_in_a_sentence(root, change, message):
    change_annotations(root, change)
    with pytest.raises(UserError) as error:
        Coco(root=str(root), max_corrupt=0.5).setup("test")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read (Expecting value"),
        (b"\xff\xd8\xff\xe0", "can't be read ("),
        (b"[]", "it holds a list and not an object with images, annotations, categories"),
        (b"7", "it holds a int and not"),
        (b"[" * 100_000, "can't be read ("),
        (b'{"images": ' + b"9" * 10_000 + b"}", "can't be read ("),
    ],
)
def test_files_that_are_not_annotations_are_refused_in_a_sentence(root, content, message):
    file = root / "annotations" / "instances_val2017.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        Coco(root=str(root)).setup("test")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_test_split_is_read_before_a_training_and_only_once(root):
    for damaged in (False, True):
        data = Coco(root=str(root), val_size=0.25)
        data.setup("fit")
        if damaged:
            (root / "annotations" / "instances_val2017.json").write_text("{")
            with pytest.raises(UserError, match=r"instances_val2017\.json' can't be read"):
                data.check_test_split()
        else:
            data.check_test_split()
            checked = data.test_set
            data.setup("test")
            assert data.test_set is checked
            assert len(checked) == 8


def test_without_a_validation_split_the_test_split_is_the_one_that_was_read(root):
    data = Coco(root=str(root), val_size=0)
    data.setup("fit")
    (root / "annotations" / "instances_val2017.json").unlink()
    data.check_test_split()
    assert data.test_set is data.val_set


def test_a_file_that_does_not_fit_into_memory_is_not_read(root):
    with (root / "annotations" / "instances_val2017.json").open("r+b") as file:
        file.truncate(2**42)  # a sparse file of 4 TiB
    with pytest.raises(UserError, match=r"need about 16384.0 GiB of memory, and .* GiB are available"):
        Coco(root=str(root)).setup("test")


def test_errors_in_folders_and_files(root, tmp_path):
    with pytest.raises(UserError, match=r"There is no .*instances_val2017\.json"):
        Coco(root=str(tmp_path / "nowhere")).setup("test")
    file = root / "annotations" / "instances_val2017.json"
    content = file.read_text()
    file.write_text(content[:100])
    with pytest.raises(UserError, match="can't be read"):
        Coco(root=str(root)).setup("test")
    file.write_text('{"images": []}')
    with pytest.raises(UserError, match="not an annotation file in COCO's format, .*: annotations, categories missing"):
        Coco(root=str(root)).setup("test")
    file.write_text(content)
    (root / "val2017").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"There is no image folder '.*val2017'"):
        Coco(root=str(root)).setup("test")
