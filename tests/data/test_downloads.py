"""Data sets that torchvision downloads, from a web server on this machine."""

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
from filelock import FileLock, Timeout
from torchvision import datasets

from lambdanets.data import CIFAR10, CIFAR100, Augmentation, FashionMNIST
from lambdanets.errors import UserError


@pytest.fixture
def server(tmp_path):
    """Yield the address of a web server that serves tmp_path."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def pack_cifar(folder, num_classes, monkeypatch, server):
    """Write an archive of random images in CIFAR's format and make torchvision accept it.

    Returns:
        The archive and its training images.
    """
    source = datasets.CIFAR10 if num_classes == 10 else datasets.CIFAR100
    train_names = [f"data_batch_{index}" for index in range(1, 6)] if num_classes == 10 else ["train"]
    test_name, meta_name = ("test_batch", "batches.meta") if num_classes == 10 else ("test", "meta")
    labels_key = "labels" if num_classes == 10 else "fine_labels"
    files = folder / source.base_folder
    files.mkdir(parents=True)
    rng = np.random.default_rng(0)
    md5, train_images = {}, []
    for name in (*train_names, test_name, meta_name):
        if name == meta_name:
            content = {source.meta["key"]: [f"class{index}" for index in range(num_classes)]}
        else:
            count = 8 if name == test_name else 40 // len(train_names)
            data = rng.integers(256, size=(count, 3072), dtype=np.uint8)
            content = {"data": data, labels_key: [index % num_classes for index in range(count)]}
            train_images += [data] if name in train_names else []
        (files / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((files / name).read_bytes()).hexdigest()
    archive = folder.parent / source.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(files, files.name)
    monkeypatch.setattr(source, "url", f"{server}/{archive.name}")
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(source, "train_list", [(name, md5[name]) for name in train_names])
    monkeypatch.setattr(source, "test_list", [(test_name, md5[test_name])])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5[meta_name]})
    return archive, np.concatenate(train_images).reshape(-1, 3, 32, 32)


@pytest.mark.parametrize(("data_class", "num_classes"), [(CIFAR10, 10), (CIFAR100, 100)])
def test_cifar_is_downloaded_checked_and_split(tmp_path, server, monkeypatch, data_class, num_classes):
    archive, train_images = pack_cifar(tmp_path / "source", num_classes, monkeypatch, server)
    data = data_class(root=str(tmp_path / "data"), val_size=0.1, augment=Augmentation(flip=True))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.classes == [f"class{index}" for index in range(num_classes)]
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (36, 4, 8)
    images = torch.cat([data.train_set.tensors[0], data.val_set.tensors[0]]).numpy()
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in train_images)

    shutil.rmtree(tmp_path / "data")
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{data_class.__name__} could not be downloaded to .*data\.root"):
        data.prepare_data()


def write_fashion_mnist(folder):
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 20), ("t10k", 10)):
        images = np.random.default_rng(0).integers(256, size=(count, 28, 28), dtype=np.uint8)
        header = b"".join(number.to_bytes(4, "big") for number in (0x803, count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"".join(number.to_bytes(4, "big") for number in (0x801, count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(range(10)) * (count // 10))


def test_fashion_mnist_has_one_channel(tmp_path):
    write_fashion_mnist(tmp_path)
    data = FashionMNIST(root=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.train_set.tensors[0].shape == (18, 1, 28, 28)
    assert data.test_set.tensors[1].tolist() == list(range(10))
    assert data.preprocess(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (1, 28, 28)


def test_one_process_downloads_at_a_time(tmp_path, monkeypatch):
    locked = []

    def download(root, **options):
        try:
            FileLock(root / ".lock", timeout=0).acquire().lock.release()
            locked.append(False)
        except Timeout:
            locked.append(True)

    monkeypatch.setattr(CIFAR10, "SOURCE", staticmethod(download))
    CIFAR10(root=str(tmp_path / "new" / "data")).prepare_data()
    assert locked == [True, True]
    FileLock(tmp_path / "new" / "data" / ".lock", timeout=0).acquire()


@pytest.mark.parametrize("error", [PermissionError("read-only"), NotImplementedError("no locks")])
def test_complete_files_in_a_folder_that_cannot_be_locked_are_used(tmp_path, monkeypatch, error):
    write_fashion_mnist(tmp_path)

    def acquire(self, **options):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    data = FashionMNIST(root=str(tmp_path))
    data.prepare_data()
    data.setup("test")
    assert len(data.test_set) == 10
