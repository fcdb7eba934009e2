"""Reading photos: decoding, cropping, packing, and what can't be decoded."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from lambdanets.data import ImageFolder, Packed
from lambdanets.data.batches import ResumableBatchSampler, SeededBatches
from lambdanets.data.files import Photo, collate
from lambdanets.data.random_crop import RandomCrop
from lambdanets.errors import UserError


def jpeg(width, height, seed=0, mode="RGB"):
    """A smooth photograph-like image as JPEG."""
    generator = torch.Generator().manual_seed(seed)
    pixels = F.resize(torch.rand(3, 6, 8, generator=generator), [height, width], antialias=True)
    file = io.BytesIO()
    F.to_pil_image(pixels).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for label, name in enumerate(("ant", "bee")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count // 2):
                (folder / f"{number}.jpg").write_bytes(jpeg(40 + number, 30, seed=100 * label + number))
    return tmp_path / "images"


def test_photos_are_decoded_as_pil_does():
    for raw in (jpeg(61, 47), jpeg(61, 47, mode="L"), jpeg(61, 47, mode="CMYK")):
        expected = F.pil_to_tensor(Image.open(io.BytesIO(raw)).convert("RGB"))
        found = Photo(raw, "photo").decode()
        assert (found.int() - expected.int()).abs().max() <= 2


def test_a_large_photo_is_decoded_only_as_far_as_is_needed():
    raw = jpeg(640, 480)
    assert Photo(raw, "photo").decode((100, 100)).shape[1:] == (120, 160)
    assert Photo(raw, "photo").decode((300, 300)).shape[1:] == (480, 640)
    # The crop of the smaller one looks like that of the whole one.
    photo, whole = Photo(raw, "photo"), Photo(raw, "photo").decode()
    crop = RandomCrop((64, 64), scale=(0.5, 0.5))
    torch.manual_seed(3)
    found = crop(photo).float()
    torch.manual_seed(3)
    blank = torch.empty(1, 480, 640, device="meta")
    box = crop_box(blank)
    expected = F.resized_crop(whole, *box, [64, 64], antialias=True).float()
    assert (found - expected).abs().mean() < 2


def crop_box(blank):
    from torchvision.transforms import RandomResizedCrop

    return RandomResizedCrop.get_params(blank, [0.5, 0.5], [3 / 4, 4 / 3])


def test_what_is_drawn_for_an_image_depends_on_seed_epoch_and_image_only(root):
    data = ImageFolder(root=str(root), image_size=16, memory_gib=0, seed=5)
    data.setup("fit")
    one, two = (list(SeededBatches(ResumableBatchSampler(12, 4, train=True, seed=5))) for _ in range(2))
    assert one == two
    items = {index: data.train_set[index, seed] for batch in one for index, seed in batch}
    torch.manual_seed(99)
    for batch in reversed(two):
        for index, seed in batch:
            assert torch.equal(data.train_set[index, seed][0], items[index][0])
    later = ResumableBatchSampler(12, 4, train=True, seed=5)
    later.set_epoch(1)
    assert {seed for batch in SeededBatches(later) for _, seed in batch}.isdisjoint(
        s for batch in one for _, s in batch
    )


def test_an_epoch_goes_on_where_it_was():
    whole = list(ResumableBatchSampler(50, 4, train=True, seed=1))
    assert list(ResumableBatchSampler(50, 4, train=True, seed=1, count_finished=lambda: 5)) == whole[5:]


def read(data):
    data.setup("fit")
    return [data.train_set[i] for i in range(len(data.train_set))]


def test_corrupt_images_are_left_out_counted_and_named(root, tmp_path):
    bad = root / "train" / "ant" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    wrong = root / "val" / "bee" / "0.jpg"
    wrong.write_text("no image")
    for memory in (0, 1):
        strict = ImageFolder(root=str(root), image_size=16, memory_gib=memory)
        with pytest.raises(UserError, match="can't be decoded"):
            read(strict)
        data = ImageFolder(root=str(root), image_size=16, memory_gib=memory, max_corrupt=0.3, batch_size=4)
        data.corrupt.file = tmp_path / f"corrupt-{memory}.txt"
        data.setup("fit")
        trained = list(data.train_dataloader())
        assert sum(len(labels) for _, labels in trained) == (8 if memory else 12)  # 11 images are two whole batches
        assert sum(len(labels) for _, labels in data.val_dataloader()) == 3
        assert data.corrupt.file.read_text().splitlines() == [str(bad), str(wrong)]
    few = ImageFolder(root=str(root), image_size=16, memory_gib=0, max_corrupt=0.05, batch_size=4)
    with pytest.raises(UserError, match=r"1 of 12 images can.t be decoded.*more than data.max_corrupt=0.05"):
        read(few)
    assert collate([None, None])[1].shape == (0,)


def test_shards_hold_the_folder_and_webdataset_reads_them(root, tmp_path):
    from lambdanets.data.shards import CLASSES_FILE, write_shards

    target = tmp_path / "shards"
    target.mkdir()
    folder = ImageFolder(root=str(root), image_size=16, memory_gib=0)
    folder.read_classes()
    for split in ("train", "val", "test"):
        write_shards(target, split, folder.list_samples(split), shard_bytes=4000)
    (target / CLASSES_FILE).write_text(json.dumps(folder.classes))
    assert len(list(target.glob("train-*.tar"))) > 1
    packed = Packed(root=str(target), image_size=16, memory_gib=0)
    assert packed.has_test
    for data in (folder, packed):
        data.setup("fit")
        data.setup("test")
    assert packed.classes == ["ant", "bee"]
    for name in ("train_set", "val_set", "test_set"):
        ours, theirs = getattr(packed, name), getattr(folder, name)
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            item = (index, 7) if name == "train_set" else index
            assert torch.equal(ours[item][0], theirs[item][0])
            assert ours[item][1] == theirs[item][1]

    webdataset = pytest.importorskip("webdataset")
    urls = sorted(str(path) for path in target.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    files = folder.list_samples("train")
    assert [int(sample["cls"]) for sample in samples] == [label for _, label in files]
    assert [sample["jpg"] for sample in samples] == [Path(path).read_bytes() for path, _ in files]

    last = sorted(target.glob("train-*.tar"))[-1]
    last.write_bytes(last.read_bytes()[:600])
    with pytest.raises(UserError, match="is missing or truncated"):
        Packed(root=str(target), image_size=16).setup("fit")
