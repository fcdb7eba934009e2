"""Shards against the files that they were made of, read by data=packed and by webdataset."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from lambdanets.data import ImageFolder, Packed
from lambdanets.data.shards import CLASSES_FILE, MANIFEST_FILE, check_output, write_shards
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


def test_a_shard_that_cannot_be_read_is_named_and_its_images_may_be_skipped(shards, tmp_path):
    strict, tolerant = (Packed(root=str(shards), image_size=16, memory_gib=0, max_corrupt=m) for m in (0.0, 1.0))
    for data in (strict, tolerant):
        data.setup("test")
    for shard in shards.glob("test-*.tar"):
        shard.unlink()
    with pytest.raises(UserError, match=r"The image '.*' can't be read from '.*\.tar' \(No such file or directory\)"):
        strict.test_set[0]
    assert tolerant.test_set[0] is None


def test_the_files_of_a_packed_split_are_closed_with_it_and_stay_with_their_process(shards):
    data = Packed(root=str(shards), image_size=16, memory_gib=0)
    data.setup("test")
    expected = data.test_set[0][0]
    copy = pickle.loads(pickle.dumps(data.test_set))
    assert torch.equal(copy[0][0], expected)
    descriptors = [*data.test_set.descriptors.values()]
    assert descriptors != [*copy.descriptors.values()]
    data.test_set = None
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


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


def test_writing_leaves_files_that_are_no_shards(folder, tmp_path):
    others = [tmp_path / name for name in ("train-images.tar", "train-2019.tar", "train-000007.tar", "test-1.tar")]
    for file in others:
        file.touch()
    write_shards(tmp_path, "train", folder.list_samples("train"), shard_bytes=10**6)
    assert all(file.exists() for file in others)


@pytest.mark.parametrize("name", ["train-2019.tar", "train-images.tar", "notes.txt", "images"])
def test_a_folder_with_other_files_is_no_output(shards, tmp_path, name):
    check_output(shards)
    (shards / CLASSES_FILE).unlink()  # as after an interrupted packing
    (shards / "train-000099.tar").touch()
    check_output(shards)
    check_output(tmp_path / "new")
    (tmp_path / "new").mkdir()
    for output in (shards, tmp_path / "new"):
        (output / ".DS_Store").touch()
        check_output(output)
        (output / name).touch()
        with pytest.raises(UserError, match=f"holds '{name}', which job=pack didn't write: set job.output_dir to a"):
            check_output(output)


@pytest.mark.parametrize("name", [CLASSES_FILE, "train-000007.tar"])
def test_a_file_that_could_be_of_a_packing_is_none_on_its_own(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"holds '{name}', which job=pack didn't write"):
        check_output(tmp_path)


def write_manifest(shards, **changes):
    counts = {}
    for split in ("train", "val", "test"):
        indexes = [json.loads(file.read_text()) for file in shards.glob(f"{split}-*.json")]
        counts[split] = {"images": sum(map(len, indexes)), "shards": len(indexes)}
    (shards / MANIFEST_FILE).write_text(json.dumps(counts | changes))
    return counts


@pytest.mark.parametrize("suffixes", [(".tar", ".json"), (".tar",), (".json",)])
def test_an_incomplete_copy_is_refused(shards, suffixes):
    count = write_manifest(shards)["train"]["shards"]
    Packed(root=str(shards), image_size=16).setup("fit")
    for suffix in suffixes:
        (shards / f"train-{count - 1:06d}{suffix}").unlink()
    with pytest.raises(UserError, match=rf"^{count - 1} of the {count} shards of train are in '.*': copy the folder"):
        Packed(root=str(shards), image_size=16).setup("fit")


def test_a_split_of_which_nothing_was_copied_is_refused(shards):
    count = write_manifest(shards)["val"]["shards"]
    for file in shards.glob("val-*"):
        file.unlink()
    with pytest.raises(UserError, match=f"0 of the {count} shards of val are in"):
        Packed(root=str(shards), image_size=16).setup("fit")


def test_shards_of_two_packings_are_refused(shards):
    write_manifest(shards, train={"images": 13, "shards": len(list(shards.glob("train-*.tar")))})
    with pytest.raises(UserError, match=r"shards of train in '.*' hold 12 images, and its shards.json counts 13: copy"):
        Packed(root=str(shards), image_size=16).setup("fit")


def test_a_gap_in_a_folder_of_an_earlier_version_is_refused(shards):
    count = len(list(shards.glob("train-*.tar")))
    for file in shards.glob("train-000000.*"):
        file.unlink()
    with pytest.raises(UserError, match=f"{count - 1} of the {count} shards of train are in"):
        Packed(root=str(shards), image_size=16).setup("fit")


@pytest.mark.parametrize("name", [CLASSES_FILE, MANIFEST_FILE, "train-000000.json"])
def test_a_file_that_is_cut_off_is_named(shards, name):
    write_manifest(shards)
    (shards / name).write_bytes((shards / name).read_bytes()[:-3])
    with pytest.raises(UserError, match=rf"{name}' is damaged: copy the folder again, or write it with job=pack\.$"):
        Packed(root=str(shards), image_size=16).setup("fit")


def test_errors(shards, tmp_path):
    last = sorted(shards.glob("train-*.tar"))[-1]
    last.write_bytes(last.read_bytes()[:600])
    with pytest.raises(UserError, match="is truncated"):
        Packed(root=str(shards), image_size=16).setup("fit")
    with pytest.raises(UserError, match="has no classes.json: data.root must name a folder that job=pack wrote"):
        Packed(root=str(tmp_path / "images"), image_size=16).setup("fit")
