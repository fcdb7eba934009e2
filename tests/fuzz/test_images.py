"""Any image file is decoded right, or refused by a sentence."""

import io

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lambdanets.data import ImageFolder
from lambdanets.data.files import Photo
from lambdanets.data.random_crop import RandomCrop
from lambdanets.errors import UserError
from tests.images import encode_turned

LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True, "exact": True}}
FORMATS = {**LOSSLESS, "JPEG": {}, "GIF": {}, "AVIF": {"speed": 10}, "JPEG2000": {}}
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "F",
    "La",
    "RGBa",
)
sides = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 1000]))
sizes = st.tuples(sides, sides).filter(lambda size: size[0] * size[1] <= 20_000)


def draw_pixels(size, seed):
    """Return random pixels (3, H, W) of a smooth image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 3, generator=generator)
    return (255 * torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]).round().to(torch.uint8)


@st.composite
def encoded_photos(draw, kinds=tuple(FORMATS)):
    """Draw the content of an image file."""
    kind = draw(st.sampled_from(kinds))
    pixels = draw_pixels(draw(sizes), draw(st.integers(0, 99)))
    return encode_turned(pixels, draw(st.integers(1, 8)), kind, **FORMATS[kind])


def decode_or_refuse(raw):
    """Decode a photo in each way; return its pixels, or None if a sentence refuses it."""
    decoded, messages = [], []
    for function in (Photo.decode, RandomCrop((8, 8)), lambda photo: photo.decode((4, 4))):
        try:
            decoded.append(function(Photo(raw, "photo")))
        except UserError as error:
            messages.append(str(error))
    for message in messages:
        assert message.startswith("The image 'photo' can't be decoded (")
        assert "\n" not in message
        assert ".cpp" not in message
    if not decoded:
        return None
    assert all(pixels.dtype == torch.uint8 and len(pixels) == 3 for pixels in decoded)
    return decoded[0]


@given(size=sizes, seed=st.integers(0, 99), orientation=st.integers(1, 8), kind=st.sampled_from([*LOSSLESS]))
def test_lossless_photos_are_upright_and_equal(size, seed, orientation, kind):
    pixels = draw_pixels(size, seed)
    photo = Photo(
        encode_turned(pixels, orientation if kind in ("PNG", "TIFF", "WEBP") else 1, kind, **LOSSLESS[kind]), ""
    )
    assert photo.size == size
    assert torch.equal(photo.decode(), pixels)


@given(mode=st.sampled_from(MODES), size=sizes, seed=st.integers(0, 99), kind=st.sampled_from([*FORMATS]))
def test_any_mode_in_any_format_is_decoded_or_refused(mode, size, seed, kind):
    image = Image.fromarray(draw_pixels(size, seed).permute(1, 2, 0).numpy())
    for step in {"La": ["LA"], "RGBa": ["RGBA"], "PA": ["RGBA"], "I;16": ["L", "I"]}.get(mode, []):
        image = image.convert(step)
    file = io.BytesIO()
    try:
        image.convert(mode).save(file, kind)
    except (OSError, ValueError, KeyError):
        return  # the format has no such mode
    decode_or_refuse(file.getvalue())


@given(samples=st.lists(st.integers(0, 65535), min_size=1, max_size=20), kind=st.sampled_from(["PNG", "TIFF", "PPM"]))
def test_16_bit_levels_keep_their_upper_bits(samples, kind):
    file = io.BytesIO()
    Image.fromarray(np.array([samples], dtype=np.uint16)).save(file, kind)
    assert Photo(file.getvalue(), "").decode()[0, 0].tolist() == [value >> 8 for value in samples]


# OpenJPEG takes what is missing of a JPEG 2000 for zeros.
@given(raw=encoded_photos([kind for kind in FORMATS if kind != "JPEG2000"]), part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_photo_is_refused_or_complete(raw, part):
    pixels = decode_or_refuse(raw[: int(part * len(raw))])
    assert pixels is None or torch.equal(pixels, Photo(raw, "photo").decode())


@given(
    raw=encoded_photos(),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_a_photo_with_changed_bytes_is_decoded_or_refused(raw, changes):
    damaged = bytearray(raw)
    for position, value in changes:
        damaged[int(position * len(raw))] = value
    decode_or_refuse(bytes(damaged))


@given(
    raw=st.binary(max_size=200),
    magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P5 ", b"II*\0"]),
)
def test_any_bytes_are_refused_or_decoded(raw, magic):
    decode_or_refuse(magic + raw)


@given(size=sizes, block=st.binary(max_size=60), orientation=st.one_of(st.integers(0, 2**16 - 1), st.none()))
def test_any_exif_block_leaves_the_photo(size, block, orientation):
    exif = b"Exif\0\0" + block
    if orientation is not None:
        exif = Image.Exif()
        exif[0x112] = orientation
    image, file = Image.fromarray(draw_pixels(size, 1).permute(1, 2, 0).numpy()), io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    pixels = Photo(file.getvalue(), "photo").decode()
    if orientation is not None:
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
        assert (upright.height, upright.width) == pixels.shape[1:]
    assert sorted(pixels.shape[1:]) == sorted(size)


@given(
    short=st.integers(1, 40), long=st.integers(1, 9000), turned=st.booleans(), ratio=st.sampled_from([0.5, 0.875, 1.0])
)
def test_evaluation_makes_a_square_of_any_shape(short, long, turned, ratio):
    size = (long, short) if turned else (short, long)
    data = ImageFolder(root="", image_size=32, crop_ratio=ratio)
    assert data.preprocess(torch.zeros(3, *size, dtype=torch.uint8)).shape == (3, 32, 32)
