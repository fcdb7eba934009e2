"""The data modules on small local files."""

import hashlib
import pickle
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset
from torchvision import datasets

from lambdanets.data import CIFAR10, Augmentation, Digits, FashionMNIST, ImageFolder, ImageNet
from lambdanets.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """train/ and test/ with two classes, whose images' red tells the class; of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(rng.integers(20, 40), rng.integers(20, 40), 3), dtype=np.uint8)
                pixels[..., 0] = 200 * label
                suffix = ("png", "jpg", "webp")[number % 3]
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number:02}.{suffix}")
    return tmp_path


def labels_of(loader):
    return torch.cat([labels for _, labels in loader])


def test_digits_are_scikit_learns_and_their_splits_are_disjoint():
    data = Digits()
    data.setup("fit")
    data.setup("test")
    scans = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    everything = sorted(scan.tobytes() for scan in scans)
    splits = [data.train_set, data.val_set, data.test_set]
    found = sorted(image.numpy().tobytes() for split in splits for image in split.tensors[0])
    assert found == everything
    assert [len(split) for split in splits] == [1294, 144, 359]
    again, other = Digits(), Digits(split_seed=1)
    for module in (again, other):
        module.setup("fit")
        module.setup("test")
    assert torch.equal(again.val_set.tensors[0], data.val_set.tensors[0])
    assert not torch.equal(other.val_set.tensors[0], data.val_set.tensors[0])
    assert torch.equal(other.test_set.tensors[0], data.test_set.tensors[0])


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_a_folder_is_read_in_memory_or_streamed_alike(folder, memory_gib):
    data = ImageFolder(root=str(folder), image_size=16, batch_size=4, memory_gib=memory_gib, val_size=0.25)
    data.setup("fit")
    data.setup("test")
    assert data.classes == ["cat", "dog"]
    assert isinstance(data.train_set, TensorDataset) == (memory_gib > 0)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (30, 10, 8)
    assert labels_of(data.test_dataloader()).tolist() == [0] * 4 + [1] * 4
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal((images[:, 0].float().mean((1, 2)) > 100).long(), labels)
    normalized, _ = data.on_after_batch_transfer((images, labels), 0)
    expected = (images.double() / 255 - torch.tensor(data.MEAN)[:, None, None]) / torch.tensor(data.STD)[:, None, None]
    torch.testing.assert_close(normalized, expected.float())


def test_a_folder_with_val_keeps_it_and_one_without_test_has_none(folder):
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


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
@pytest.mark.parametrize("damage", ["cut", "text"])
def test_an_image_that_cannot_be_decoded_is_named(folder, memory_gib, damage):
    file = folder / "train" / "dog" / "01.jpg"
    file.write_bytes(file.read_bytes()[:300] if damage == "cut" else b"not an image")
    data = ImageFolder(root=str(folder), image_size=16, batch_size=1, memory_gib=memory_gib, val_size=1, num_workers=1)

    def read_everything():
        data.setup("fit")
        return [*data.train_dataloader(), *data.val_dataloader()]

    with pytest.raises(UserError, match=r"^The image '.*dog/01\.jpg' can't be decoded .*remove it\.$"):
        read_everything()


def test_mistakes_in_a_folder(folder, tmp_path_factory):
    (folder / "test" / "bird").mkdir()
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


@pytest.fixture
def server(tmp_path):
    """Address of a web server on this machine that serves the test's folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_cifar10_is_downloaded_checked_and_split(tmp_path, server, monkeypatch):
    source = tmp_path / "source" / "cifar-10-batches-py"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    md5 = {}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    for name in names:
        content = {"data": rng.integers(256, size=(8, 3072), dtype=np.uint8), "labels": [n % 10 for n in range(8)]}
        if name == "batches.meta":
            content = {"label_names": [f"class{n}" for n in range(10)]}
        (source / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((source / name).read_bytes()).hexdigest()
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    peer = datasets.CIFAR10
    monkeypatch.setattr(peer, "url", f"{server}/{archive.name}")
    monkeypatch.setattr(peer, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(peer, "train_list", [(name, md5[name]) for name in names[:5]])
    monkeypatch.setattr(peer, "test_list", [("test_batch", md5["test_batch"])])
    monkeypatch.setattr(peer, "meta", {**peer.meta, "md5": md5["batches.meta"]})

    data = CIFAR10(root=str(tmp_path / "data"), val_size=0.1, augment=Augmentation(flip=True))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.classes[3] == "class3"
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (36, 4, 8)
    assert data.train_set.tensors[0].shape == (36, 3, 32, 32)

    shutil.rmtree(tmp_path / "data")
    archive.unlink()
    with pytest.raises(UserError, match=r"CIFAR10 could not be downloaded to .*data\.root"):
        data.prepare_data()


def test_fashion_mnist_is_grey(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        images = np.random.default_rng(0).integers(256, size=(count, 28, 28), dtype=np.uint8)
        header = b"".join(number.to_bytes(4, "big") for number in (0x803, count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"".join(number.to_bytes(4, "big") for number in (0x801, count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(range(10)) * (count // 10))
    data = FashionMNIST(root=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.train_set.tensors[0].shape == (18, 1, 28, 28)
    assert data.test_set.tensors[1].tolist() == list(range(10))
    assert data.preprocess(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (1, 28, 28)
