"""Shards against the files that they were made of, read by data=packed and by webdataset."""

import json
from pathlib import Path

import pytest
import torch

from lambdanets.data import ImageFolder, Packed
from lambdanets.data.shards import CLASSES_FILE, write_shards
from lambdanets.errors import UserError
from tests.images import make_image_folder


@pytest.fixture
def folder(tmp_path):
    folder = ImageFolder(root=str(make_image_folder(tmp_path / "images", train=12, val=4, test=4)), image_size=16)
    folder.memory_gib = 0
    folder.read_classes()
    return folder


@pytest.fixture
def shards(folder, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for split in ("train", "val", "test"):
        write_shards(shards, split, folder.list_samples(split), shard_bytes=4000)
    (shards / CLASSES_FILE).write_text(json.dumps(folder.classes))
    return shards


def test_packed_images_equal_those_of_the_folder(folder, shards):
    assert len(list(shards.glob("train-*.tar"))) > 1
    packed = Packed(root=str(shards), image_size=16, memory_gib=0)
    assert packed.has_test
    assert packed.count_classes() == 2
    for data in (folder, packed):
        data.setup("fit")
        data.setup("test")
    assert packed.classes == ["ant", "bee"]
    for name in ("train_set", "val_set", "test_set"):
        expected, split = getattr(folder, name), getattr(packed, name)
        assert len(split) == len(expected) == (12 if name == "train_set" else 4)
        for index in range(len(split)):
            item = (index, 7) if name == "train_set" else index
            assert torch.equal(split[item][0], expected[item][0])
            assert split[item][1] == expected[item][1]


def test_webdataset_reads_the_shards(folder, shards):
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in shards.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    files = folder.list_samples("train")
    assert [int(sample["cls"]) for sample in samples] == [label for _, label in files]
    assert [sample["jpg"] for sample in samples] == [Path(path).read_bytes() for path, _ in files]


def test_writing_again_removes_shards_that_are_no_longer_needed(folder, shards):
    samples = folder.list_samples("train")
    assert write_shards(shards, "train", samples[:3], shard_bytes=10**6) == 1
    assert sorted(file.name for file in shards.glob("train-*")) == ["train-000000.json", "train-000000.tar"]
    packed = Packed(root=str(shards), image_size=16)
    assert [image.name for image in packed.list_samples("train")] == [path for path, _ in samples[:3]]
    assert packed.has_split("val")


def test_errors(shards, tmp_path):
    last = sorted(shards.glob("train-*.tar"))[-1]
    last.write_bytes(last.read_bytes()[:600])
    with pytest.raises(UserError, match="is missing or truncated"):
        Packed(root=str(shards), image_size=16).setup("fit")
    last.unlink()
    with pytest.raises(UserError, match="is missing or truncated"):
        Packed(root=str(shards), image_size=16).setup("fit")
    with pytest.raises(UserError, match="has no classes.json: data.root must name a folder that job=pack wrote"):
        Packed(root=str(tmp_path / "images"), image_size=16).setup("fit")
