"""JPEGs that a GPU decodes; here the CPU's decoder stands in for it."""

import pytest
import torch
import torchvision
from PIL import Image

from lambdanets.data import ImageFolder, Packed, gpu_decoder
from lambdanets.data.gpu_decoder import EncodedBatch
from lambdanets.data.shards import CLASSES_FILE, write_shards
from lambdanets.errors import UserError
from tests.images import encode_jpeg, make_image_folder

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with JPEGs, one of them gray, and a PNG."""

    def decode_jpeg(contents, mode, *, device):
        assert all(content.device.type == "cpu" and content.ndim == 1 for content in contents)
        return [torchvision.io.decode_jpeg(content, mode) for content in contents]

    monkeypatch.setattr(gpu_decoder, "decode_jpeg", decode_jpeg)
    root = make_image_folder(tmp_path / "images", train=14, val=6)
    (root / "train" / "ant" / "gray.jpg").write_bytes(encode_jpeg(40, 30, mode="L"))
    Image.new("RGB", (33, 44), (10, 20, 30)).save(root / "val" / "bee" / "photo.png")
    return root


def load(data):
    """Return the batches of the first training epoch and of the validation."""
    data.setup("fit")
    return [*data.train_dataloader(), *data.val_dataloader()]


def decode(data, batch):
    images, labels = batch
    crop = data.augment.make_crop(data.image_size)
    return gpu_decoder.decode_batch(images, CPU, crop, data.preprocess), labels


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_images_are_those_that_workers_decode(root, num_workers):
    options = {"root": str(root), "image_size": 24, "memory_gib": 0, "batch_size": 4, "num_workers": num_workers}
    by_worker, by_gpu = ImageFolder(**options), ImageFolder(**options, decoder="cuda")
    expected, encoded = load(by_worker), load(by_gpu)
    assert len(encoded) == len(expected) == 5
    for (images, labels), batch in zip(expected, encoded, strict=True):
        assert isinstance(batch[0], EncodedBatch)
        decoded, decoded_labels = decode(by_gpu, batch)
        assert torch.equal(decoded, images)
        assert torch.equal(decoded_labels, labels)


def test_packed_images_are_decoded_likewise(root, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / CLASSES_FILE).write_text('["ant"]')
    files = sorted((root / "train" / "ant").iterdir())
    write_shards(shards, "train", [(str(file), 0) for file in files], shard_bytes=10_000)
    options = {"root": str(shards), "image_size": 24, "memory_gib": 0, "batch_size": 2, "val_size": 2}
    expected, data = load(Packed(**options)), Packed(**options, decoder="cuda")
    for (images, _), batch in zip(expected, load(data), strict=True):
        assert torch.equal(decode(data, batch)[0], images)


def test_a_split_in_memory_is_decoded_by_the_cpu(root):
    images, _ = load(ImageFolder(root=str(root), image_size=24, batch_size=4, decoder="cuda"))[0]
    assert images.shape == (4, 3, 24, 24)


def test_images_that_are_decoded_already_make_a_batch(root):
    options = {"root": str(root), "image_size": 24}
    by_worker, by_gpu = ImageFolder(**options), ImageFolder(**options, decoder="cuda")
    items = [(torch.full((3, 24, 24), float(label)), {"image_id": label}) for label in (1, 2)]  # as of job=predict
    for expected, found in zip(by_worker.collate(items), by_gpu.collate(items), strict=True):
        torch.testing.assert_close(found, expected)
    assert [len(part) for part in by_gpu.collate([])] == [0, 0]


def test_a_damaged_photo_is_named(root):
    file = root / "val" / "ant" / "1.jpg"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])  # the header is complete
    data = ImageFolder(root=str(root), image_size=24, memory_gib=0, batch_size=4, decoder="cuda")
    batches = load(data)
    with pytest.raises(UserError, match=r"^The image '.*ant/1\.jpg' can't be decoded .*remove it\.$"):
        [decode(data, batch) for batch in batches]


def test_the_option_is_refused_where_it_cannot_work(root):
    options = {"root": str(root), "image_size": 24, "memory_gib": 0, "batch_size": 4}
    with pytest.raises(UserError, match="data.decoder=gpu is not known: choose cpu or cuda"):
        ImageFolder(**options, decoder="gpu")
    with pytest.raises(UserError, match="can't skip corrupt images, but data.max_corrupt=0.1: set it to 0"):
        ImageFolder(**options, decoder="cuda", max_corrupt=0.1)
    data = ImageFolder(**options, decoder="cuda")
    batch = load(data)[0]
    with pytest.raises(UserError, match="needs a GPU, but the training runs on cpu: set data.decoder=cpu"):
        data.transfer_batch_to_device(batch, CPU, 0)
