"""Decoding photos, and reading image files as a data set."""

import io
import os
import re

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from lambdanets.data.corrupt import CorruptImages
from lambdanets.data.files import DecodeThen, ImageFiles, Photo, collate, load_into_memory, read_image
from lambdanets.data.random_crop import RandomCrop
from lambdanets.errors import UserError
from tests.images import encode_jpeg, encode_turned


@pytest.fixture
def samples(tmp_path):
    """Twelve images of ever more columns; the second and the last one are damaged."""
    samples = []
    for index in range(12):
        file = tmp_path / f"{index:02}.jpg"
        raw = encode_jpeg(20 + index, 30, seed=index)
        file.write_bytes({1: raw[:300], 11: b"not an image"}.get(index, raw))
        samples.append((str(file), index))
    return samples


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photos_are_decoded_as_by_pil(mode):
    raw = encode_jpeg(61, 47, mode=mode)
    expected = F.pil_to_tensor(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert (Photo(raw, "photo").decode().int() - expected.int()).abs().max() <= 2


def test_a_large_photo_is_decoded_at_a_fraction_that_suffices():
    raw = encode_jpeg(640, 480)
    full = Photo(raw, "photo").decode()
    reduced = Photo(raw, "photo").decode((100, 100))
    assert reduced.shape == (3, 120, 160)
    assert Photo(raw, "photo").decode((300, 300)).shape == full.shape == (3, 480, 640)
    expected = F.resize(full, [120, 160], antialias=True)
    assert (reduced.float() - expected.float()).abs().mean() < 2


def test_files_that_are_no_images_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"There is no image '.*none\.jpg'"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(
        UserError,
        match=r"The image '.*text\.jpg' can't be decoded \(it is not an image of a known format, or it is truncated\)",
    ):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(UserError, match=r"The image '.*' can't be read \(Is a directory\)"):
        read_image(tmp_path)


def test_random_draws_of_an_image_depend_on_its_seed_only(samples):
    files = ImageFiles(samples, RandomCrop((16, 16)))
    torch.manual_seed(99)
    crop, label = files[4, 7]
    assert label == 4
    files[5, 1]
    assert torch.equal(files[4, 7][0], crop)
    assert not torch.equal(files[4, 8][0], crop)


def test_the_next_image_replaces_a_damaged_one_in_training_only(samples, tmp_path):
    files = ImageFiles(samples, Photo.decode, CorruptImages(0.2, tmp_path / "corrupt.txt"))
    image, label = files[1, 0]
    assert (label, image.shape) == (2, (3, 30, 22))
    assert files[11, 0][1] == 0
    assert files[1] is None
    assert (tmp_path / "corrupt.txt").read_text().splitlines() == [samples[1][0], samples[11][0]]
    with pytest.raises(UserError, match=r"01\.jpg' can't be decoded"):
        ImageFiles(samples, Photo.decode)[1]


def test_a_set_in_memory_has_the_images_that_can_be_decoded(samples):
    files = ImageFiles(samples, DecodeThen(lambda image: F.resize(image, [8, 8])), CorruptImages(0.2))
    images, labels = load_into_memory(files).tensors
    assert labels.tolist() == [0, *range(2, 11)]
    assert torch.equal(images[3], F.resize(read_image(samples[4][0]), [8, 8]))


def test_loading_a_set_into_memory_keeps_no_files_open(samples, monkeypatch):
    counts = []

    class CountingLoader(DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                counts.append(len(os.listdir("/proc/self/fd")))
                yield batch

    monkeypatch.setattr("lambdanets.data.files.DataLoader", CountingLoader)
    files = ImageFiles([samples[0]] * 20 * 256, DecodeThen(lambda image: image[:, :2, :2]))
    assert len(load_into_memory(files, num_workers=1)) == 20 * 256
    assert max(counts) - min(counts) < 15  # a batch in shared memory has two open files, and two batches are prefetched


def test_a_batch_without_images_is_empty():
    images, labels = collate([None, None])
    assert len(images) == len(labels) == 0
    assert labels.dtype == torch.int64


FORMATS = {
    "JPEG": {},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "TIFF": {},
    "PPM": {},
    "AVIF": {"speed": 10},
    "JPEG2000": {},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused_in_plain_words_or_has_all_its_pixels(kind):
    raw = encode_turned(Photo(encode_jpeg(40, 30), "photo").decode(), 1, kind, **FORMATS[kind])
    whole, reasons = Photo(raw, "photo").decode(), []
    for length in {0, 1, len(raw) // 4, len(raw) // 2, 3 * len(raw) // 4, len(raw) - 1}:
        try:
            assert torch.equal(Photo(raw[:length], "photo").decode(), whole)
        except UserError as error:
            reasons.append(str(error))
    assert len(reasons) >= 5
    for reason in reasons:
        assert re.fullmatch(
            r"The image 'photo' can't be decoded \((the file is|it is)[\w :,.-]*\): replace or remove it\.", reason
        )


def test_a_truncated_jpeg_has_no_path_of_a_program_in_its_message():
    with pytest.raises(UserError, match=r"^The image 'photo' can't be decoded \(the file is truncated\): replace"):
        Photo(encode_jpeg(64, 48)[:700], "photo").decode()


def test_a_decompression_bomb_is_refused_by_its_header():
    bomb = b"P6 20000 20000 255\n"
    with pytest.raises(UserError, match=r"it has more than 179 million pixels"):
        Photo(bomb, "bomb")


def test_a_set_without_any_image_that_can_be_decoded_is_an_error(tmp_path):
    samples = [(str(tmp_path / f"{index}.jpg"), 0) for index in range(3)]
    files = ImageFiles(samples, DecodeThen(lambda image: image), CorruptImages(1.0))
    with pytest.raises(UserError, match="None of the 3 images can be decoded"):
        files[0, 1]
    with pytest.raises(UserError, match="None of the 3 images can be decoded"):
        load_into_memory(files)
