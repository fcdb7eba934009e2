"""job=pack on the command line; its shards read by webdataset and by data=packed."""

import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lambdanets.data import Packed
from tests.in_process import refusal_of, run, tree


def write_images(root, splits):
    """Write images of a few exact colors, in three formats; return (class, bytes, pixels) of each image by split."""
    written = {}
    for split, classes in splits.items():
        written[split] = []
        for label, (name, count) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                suffix = ("png", "bmp", "ppm")[index % 3]
                pixels = np.full((12, 12, 3), (100 * label, 10 * index, len(split)), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.{suffix}")
                written[split].append((label, (folder / f"{index}.{suffix}").read_bytes(), pixels))
    return written


def sort_images(images):
    return sorted((label, raw, pixels.tobytes()) for label, raw, pixels in images)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Pack an image folder in shards of about four images; return its parent folder and its images by split."""
    folder = tmp_path_factory.mktemp("pack")
    images = write_images(folder / "images", {"train": {"cat": 9, "dog": 7}, "val": {"cat": 2, "dog": 3}})
    shard_mib = sum(len(raw) for _, raw, _ in images["train"]) / 4 / 2**20
    output = run("job=pack", "data=imagefolder", "data.root=images", f"job.shard_mib={shard_mib}", cwd=folder)
    assert "21 images in" in output.text
    return folder, images


def test_webdataset_reads_all_images_and_labels_in_mixed_order(packed):
    webdataset = pytest.importorskip("webdataset")
    folder, images = packed
    for split, count in (("train", 16), ("val", 5)):
        shards = sorted(str(file) for file in (folder / "images-packed").glob(f"{split}-*.tar"))
        assert (len(shards) > 2) == (split == "train")
        samples = []
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            (raw,) = (value for name, value in sample.items() if name in ("png", "bmp", "ppm"))
            pixels = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
            samples.append((int(sample["cls"]), raw, pixels))
        assert len(samples) == count
        assert sort_images(samples) == sort_images(images[split])
        if split == "train":
            labels = [label for label, _, _ in samples]
            assert sum(a != b for a, b in pairwise(labels)) > 3  # not one class after the other


def test_packed_data_have_the_pixels_and_labels_of_the_folder(packed):
    folder, images = packed
    data = Packed(root=str(folder / "images-packed"), image_size=12, memory_gib=1)
    assert not data.has_test
    data.setup("fit")
    assert data.classes == ["cat", "dog"]
    for split, dataset in (("train", data.train_set), ("val", data.val_set)):
        pixels, labels = dataset.tensors
        pixels = pixels.permute(0, 2, 3, 1).numpy()
        read = [(label, image.tobytes()) for label, image in zip(labels.tolist(), pixels, strict=True)]
        assert sorted(read) == sorted((label, image.tobytes()) for label, _, image in images[split])


def test_the_numbers_of_images_and_shards_are_metrics(packed):
    folder, _ = packed
    (file,) = folder.glob("outputs/**/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics == {"images": 21, "shards": len(list((folder / "images-packed").glob("*.tar")))}


def test_imagenets_val_is_packed_as_test(tmp_path):
    write_images(tmp_path / "imagenet", {"train": {"n01": 6, "n02": 6}, "val": {"n01": 2, "n02": 2}})
    options = ("recipe=digits", "data.image_size=12", "data.root=imagenet", "job.output_dir=shards")
    run("job=pack", "data=imagenet", *options, cwd=tmp_path)
    assert {file.name.split("-")[0] for file in Path(tmp_path / "shards").glob("*.tar")} == {"train", "test"}
    data = Packed(root=str(tmp_path / "shards"), image_size=12, val_size=4)
    data.setup("fit")
    data.setup("test")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (8, 4, 4)


@pytest.mark.parametrize("options", [("data=digits",), ("data=packed", "data.root=images-packed")])
def test_packing_anything_but_an_image_folder_is_an_error(packed, options):
    folder, _ = packed
    expected = "job=pack needs a folder of images: set data=imagefolder or data=imagenet, and data.root."
    assert expected in refusal_of("job=pack", *options, cwd=folder)


def test_packing_again_leaves_no_split_that_is_gone(tmp_path):
    write_images(tmp_path / "images", {"train": {"cat": 4, "dog": 4}, "val": {"cat": 2, "dog": 2}})
    pack = ("job=pack", "data=imagefolder", "data.root=images")
    run(*pack, cwd=tmp_path)
    shutil.rmtree(tmp_path / "images" / "val")
    run(*pack, cwd=tmp_path)
    assert {file.name.split("-")[0] for file in (tmp_path / "images-packed").iterdir()} == {
        "train",
        "classes.json",
        "shards.json",
    }


def test_the_images_and_shards_of_each_split_are_counted(packed):
    folder, images = packed
    counts = json.loads((folder / "images-packed" / "shards.json").read_text())
    shards = {split: len(list((folder / "images-packed").glob(f"{split}-*.tar"))) for split in images}
    assert counts == {split: {"images": len(images[split]), "shards": shards[split]} for split in images}


def test_files_of_the_users_are_left_alone(tmp_path):
    write_images(tmp_path / "images", {"train": {"cat": 2, "dog": 2}})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train-images.tar").touch()
    before = tree(tmp_path)
    options = ("data=imagefolder", "data.root=images", "job.output_dir=mine")
    assert "'mine' holds 'train-images.tar', which job=pack didn't write" in refusal_of(
        "job=pack", *options, cwd=tmp_path
    )
    assert tree(tmp_path) == before
