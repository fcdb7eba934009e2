"""Image folders, and ImageNet's layout of them."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from lambdanets.data import ImageFolder, ImageNet
from lambdanets.errors import UserError
from tests.images import make_image_folder


@pytest.fixture
def folder(tmp_path):
    """train/ and test/ with two classes that differ by their red channel; images of several sizes and formats."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(256, size=(rng.integers(20, 40), rng.integers(20, 40), 3), dtype=np.uint8)
                pixels[..., 0] = 200 * label
                suffix = ("png", "jpg", "webp")[index % 3]
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index:02}.{suffix}")
    return tmp_path


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_a_folder_in_memory_and_a_streamed_one_have_the_same_splits_and_labels(folder, memory_gib):
    data = ImageFolder(root=str(folder), image_size=16, batch_size=4, memory_gib=memory_gib, val_size=0.25)
    assert data.count_classes() == 2
    data.setup("fit")
    data.setup("test")
    assert data.classes == ["cat", "dog"]
    assert isinstance(data.train_set, TensorDataset) == (memory_gib > 0)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (30, 10, 8)
    assert torch.cat([labels for _, labels in data.test_dataloader()]).tolist() == [0] * 4 + [1] * 4
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal((images[:, 0].float().mean((1, 2)) > 100).long(), labels)
    normalized, _ = data.on_after_batch_transfer((images, labels), 0)
    expected = (images.double() / 255 - torch.tensor(data.MEAN)[:, None, None]) / torch.tensor(data.STD)[:, None, None]
    torch.testing.assert_close(normalized, expected.float())
    assert torch.equal(data.denormalize(normalized[0]), images[0])


def test_a_folder_with_val_uses_it_and_one_without_test_has_no_test_split(folder):
    (folder / "test").rename(folder / "val")
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), data.has_test) == (40, 8, False)


def test_imagenets_val_is_its_test_split(folder):
    (folder / "test").rename(folder / "val")
    data = ImageNet(root=str(folder), image_size=16, val_size=6)
    data.setup("fit")
    data.setup("test")
    assert data.has_test
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (34, 6, 8)


def test_evaluation_crops_the_middle_of_the_shorter_side(folder):
    data = ImageFolder(root=str(folder), image_size=16, crop_ratio=0.5)
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 16:48, 32:64] = 255
    assert (data.preprocess(image)[:, 1:-1, 1:-1] == 255).all()
    wider = ImageFolder(root=str(folder), image_size=16, crop_ratio=1.0).preprocess(image)
    assert (wider > 127).float().mean() == 0.25


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_an_image_that_cannot_be_decoded_is_named(folder, memory_gib, damage):
    file = folder / "train" / "dog" / "01.jpg"
    file.write_bytes(file.read_bytes()[:300] if damage == "truncated" else b"not an image")
    data = ImageFolder(root=str(folder), image_size=16, batch_size=1, memory_gib=memory_gib, val_size=1, num_workers=1)

    def read_everything():
        data.setup("fit")
        return [*data.train_dataloader(), *data.val_dataloader()]

    with pytest.raises(UserError, match=r"^The image '.*dog/01\.jpg' can't be decoded .*remove it\.$"):
        read_everything()


@pytest.mark.parametrize("memory_gib", [0, 1])
def test_corrupt_images_are_skipped_counted_and_listed(tmp_path, memory_gib):
    root = make_image_folder(tmp_path / "images", train=12, val=4)
    damaged = root / "train" / "ant" / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    text = root / "val" / "bee" / "0.jpg"
    text.write_text("no image")
    options = {"root": str(root), "image_size": 16, "memory_gib": memory_gib, "batch_size": 4}

    data = ImageFolder(max_corrupt=0.3, **options)
    data.corrupt.file = tmp_path / "corrupt.txt"
    data.setup("fit")
    # In memory, 11 images are two whole batches; when streamed, another image takes the place of the damaged one.
    assert sum(len(labels) for _, labels in data.train_dataloader()) == (8 if memory_gib else 12)
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 3
    assert data.corrupt.file.read_text().splitlines() == [str(damaged), str(text)]

    strict = ImageFolder(max_corrupt=0.05, **options)

    def read_everything():
        strict.setup("fit")
        return list(strict.train_dataloader())

    with pytest.raises(UserError, match=r"1 of 12 images can't be decoded.*more than data.max_corrupt=0.05"):
        read_everything()


def test_errors_in_a_folder(folder, tmp_path_factory):
    (folder / "test" / "bird").mkdir()
    shutil.copy(folder / "test" / "cat" / "00.png", folder / "test" / "bird")
    data = ImageFolder(root=str(folder), image_size=16)
    data.setup("fit")
    with pytest.raises(UserError, match="class folder bird, which is missing in"):
        data.setup("test")
    with pytest.raises(UserError, match="There is no folder '/nowhere'"):
        ImageFolder(root="/nowhere").setup("fit")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="There is no folder .*train"):
        ImageFolder(root=str(empty)).setup("fit")
    (empty / "train" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        ImageFolder(root=str(empty)).setup("fit")
