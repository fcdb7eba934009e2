"""Photos with an EXIF orientation: each path that reads images gives what it gives for the upright copy."""

import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

from lambdanets.data import Coco, Digits, ImageFolder, Packed, gpu_decoder
from lambdanets.data.files import Photo, read_image
from lambdanets.data.random_crop import RandomCrop
from lambdanets.data.shards import CLASSES_FILE, write_shards
from lambdanets.jobs.predict import InputImages
from tests.images import encode_jpeg, encode_turned

ORIENTATIONS = range(1, 9)


@pytest.fixture(scope="module")
def upright():
    """A photo (3, 30, 46) without symmetry."""
    return Photo(encode_jpeg(46, 30), "photo").decode()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG"])
def test_all_formats_are_turned_upright(upright, kind, orientation):
    options = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "AVIF": {"quality": 95}, "JPEG": {"quality": 95}}
    raw = encode_turned(upright, orientation, kind, **options[kind])
    photo = Photo(raw, "photo")
    assert photo.size == (30, 46)
    error = (photo.decode().int() - upright.int()).abs()
    if kind in ("PNG", "WEBP", "TIFF"):
        assert error.max() == 0
    else:
        assert error.float().mean() < 5  # lossy colors; 18 and more if turned another way


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_large_jpeg_is_decoded_at_a_fraction_and_upright(orientation):
    pixels = Photo(encode_jpeg(640, 320), "photo").decode()
    photo = Photo(encode_turned(pixels, orientation, "JPEG", quality=95), "photo")
    reduced = photo.decode((100, 100))
    assert reduced.shape == (3, 160, 320)
    assert (reduced.float() - F.resize(pixels, [160, 320], antialias=True).float()).abs().mean() < 2
    torch.manual_seed(3)
    crop = RandomCrop((40, 50))(photo)
    torch.manual_seed(3)
    expected = RandomCrop((40, 50))(Photo(encode_turned(pixels, 1), "upright"))
    assert (crop.float() - expected.float()).abs().mean() < 2


def test_an_orientation_behind_the_pixels_of_a_png_counts(upright):
    raw = encode_turned(upright, 6)
    start = raw.index(b"eXIf") - 4
    length = 12 + int.from_bytes(raw[start : start + 4], "big")
    moved = raw[:start] + raw[start + length : -12] + raw[start : start + length] + raw[-12:]
    assert torch.equal(Photo(moved, "photo").decode(), upright)


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_a_damaged_exif_block_does_not_lose_the_image(block):
    raw = encode_jpeg(46, 30)
    damaged = raw[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + raw[2:]
    assert torch.equal(Photo(damaged, "photo").decode(), Photo(raw, "photo").decode())


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_undefined_orientation_counts_as_upright(upright, value):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = value
    F.to_pil_image(upright).save(file, "PNG", exif=exif)
    assert torch.equal(Photo(file.getvalue(), "photo").decode(), upright)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with the same eight upright images, one with turned copies, as PNG and as JPEG of flat blocks."""
    root = tmp_path_factory.mktemp("photos")
    for orientation in ORIENTATIONS:
        pixels = Photo(encode_jpeg(46, 30, seed=orientation), "photo").decode()
        for name, stored_as in (("upright", 1), ("turned", orientation)):
            for split, kind in (("train", "PNG"), ("val", "TIFF")):
                folder = root / name / split / ("ant", "bee")[orientation % 2]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{orientation}.{kind.lower()}").write_bytes(encode_turned(pixels, stored_as, kind))
    return root


def load(data):
    data.setup("fit")
    return [images for images, _ in [*data.train_dataloader(), *data.val_dataloader()]]


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
@pytest.mark.parametrize("packed", [False, True])
def test_training_and_validation_read_turned_photos_as_upright_ones(folders, tmp_path, memory_gib, packed):
    batches = {}
    for name in ("upright", "turned"):
        options = {"image_size": 24, "memory_gib": memory_gib, "batch_size": 4}
        data = ImageFolder(root=str(folders / name), **options)
        if packed:
            data.read_classes()
            shards = tmp_path / name
            shards.mkdir()
            (shards / CLASSES_FILE).write_text('["ant", "bee"]')
            for split in ("train", "val"):
                write_shards(shards, split, data.list_samples(split), shard_bytes=10_000)
            data = Packed(root=str(shards), **options)
        batches[name] = load(data)
    assert len(batches["turned"]) == 4
    assert all(map(torch.equal, batches["turned"], batches["upright"]))


def test_the_gpu_decoder_turns_what_it_has_decoded(tmp_path, monkeypatch):
    """A stand-in of the GPU's decoder doesn't turn either; box and evaluation crop are of the upright photo."""
    monkeypatch.setattr(
        gpu_decoder,
        "decode_jpeg",
        lambda contents, mode, device: [torchvision.io.decode_jpeg(c, mode) for c in contents],
    )
    crop, images = RandomCrop((24, 24)), {}
    for name, encode in (("gpu", gpu_decoder.Encode(crop)), ("cpu", crop)):
        torch.manual_seed(0)
        photos = []
        for orientation in ORIENTATIONS:
            pixels = Photo(encode_jpeg(46, 30, seed=orientation), "photo").decode()
            photos.append(encode(Photo(encode_turned(pixels, orientation, "JPEG"), "photo")))
        images[name] = photos
    batch = gpu_decoder.EncodedBatch.of(images["gpu"])
    assert batch.orientations == list(ORIENTATIONS)
    decoded = gpu_decoder.decode_batch(batch, torch.device("cpu"), crop, lambda image: image)
    assert torch.equal(decoded, torch.stack(images["cpu"]))

    def refuse(contents, mode, device):
        raise RuntimeError("nvjpegDecode failed")

    monkeypatch.setattr(gpu_decoder, "decode_jpeg", refuse)
    decoded = gpu_decoder.decode_batch(batch, torch.device("cpu"), crop, lambda image: image)
    assert torch.equal(decoded, torch.stack(images["cpu"]))


def test_prediction_and_drawing_read_turned_files_as_upright_ones(folders):
    for file in sorted((folders / "turned").rglob("*.png")):
        same = folders / "upright" / file.relative_to(folders / "turned")
        assert torch.equal(read_image(file), read_image(same))
        (image, target), (expected, expected_target) = (next(iter(InputImages([f], Digits()))) for f in (file, same))
        assert torch.equal(image, expected)
        assert target["size"] == expected_target["size"] == (30, 46)


def test_a_detectors_image_is_resized_upright(folders, tmp_path):
    data = Coco(root=str(tmp_path), image_size=64)
    sizes = {tuple(data.preprocess(read_image(file)).shape) for file in (folders / "turned").rglob("*.tiff")}
    assert sizes == {(3, 42, 64)}


def test_the_reference_of_these_tests_is_turned(upright):
    raw = encode_turned(upright, 6)
    stored = Image.open(io.BytesIO(raw))
    assert stored.size == (30, 46)
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(stored)), upright.permute(1, 2, 0).numpy())
    assert np.array_equal(np.rot90(np.asarray(stored), -1), upright.permute(1, 2, 0).numpy())
