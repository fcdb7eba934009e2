"""Pixels of any mode and bit depth against values computed by hand; orientations against Pillow's."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lambdanets.data.files import Photo
from lambdanets.data.pixels import UnsupportedPixelsError, to_rgb, turn_upright, upright_pixels
from lambdanets.errors import UserError

RAMP = np.array([[0, 65, 131, 255]], dtype=np.uint8)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(raw):
    return Photo(raw, "photo").decode()


def write_png(depth, color_type, rows, **chunks):
    """Write a PNG by hand: rows of packed samples."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def samples16(*values):
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("depth", "color_type", "row", "expected"),
    [
        (1, 0, bytes([0b10110000]), [255, 0, 255, 255, 0, 0, 0, 0]),
        (2, 0, bytes([0b00011011]), [0, 85, 170, 255]),
        (4, 0, bytes([0x0F, 0x5A]), [0, 255, 85, 170]),
        (8, 0, bytes([0, 65, 131, 255]), [0, 65, 131, 255]),
        (16, 0, samples16(0, 65 * 257, 131 * 257, 65535), [0, 65, 131, 255]),
        (16, 2, samples16(*[v for v in (0, 65 * 257, 131 * 257, 65535) for _ in range(3)]), [0, 65, 131, 255]),
        # With opacity: half of black on white is 127, and black that is not there is white.
        (8, 4, bytes([0, 255, 0, 128, 0, 0]), [0, 127, 255]),
        (16, 4, samples16(0, 65535, 0, 128 * 257, 0, 0), [0, 127, 255]),
        (8, 6, bytes([9, 9, 9, 255, 0, 0, 0, 0]), [9, 255]),
        (16, 6, samples16(*[9 * 257] * 3, 65535, 0, 0, 0, 0), [9, 255]),
    ],
)
def test_all_bit_depths_of_png_are_scaled_to_8_bits(depth, color_type, row, expected):
    pixels = decode(write_png(depth, color_type, [row]))
    assert pixels.tolist() == [[expected]] * 3


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, bytes([0b01000000]), 0, [255] * 8),
        (2, bytes([0b00011011]), 1, [0, 255, 170, 255]),
        (4, bytes([0x0F, 0x5A]), 5, [0, 255, 255, 170]),
        (8, bytes([0, 65, 131, 255]), 65, [0, 255, 131, 255]),
        (16, samples16(0, 300, 301, 65535), 300, [0, 255, 1, 255]),
    ],
)
def test_a_transparent_gray_level_shows_white(depth, row, key, expected):
    assert decode(write_png(depth, 0, [row], tRNS=samples16(key)))[0].tolist() == [expected]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_shows_white(depth):
    colors = [(1, 2, 3), (9, 2, 3)]
    values = [257 * v if depth == 16 else v for color in colors for v in color]
    row = samples16(*values) if depth == 16 else bytes(values)
    pixels = decode(write_png(depth, 2, [row], tRNS=samples16(*values[:3])))
    assert pixels[:, 0].T.tolist() == [[255, 255, 255], [9, 2, 3]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_opacities(depth):
    palette = bytes([10, 20, 30, 40, 50, 60])
    row = {1: bytes([0b01000000]), 2: bytes([0b00010000]), 4: bytes([0x01]), 8: bytes([0, 1])}[depth]
    pixels = decode(write_png(depth, 3, [row], PLTE=palette, tRNS=bytes([255, 0])))
    assert pixels[:, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize(
    "raw",
    [
        b"P5 4 1 255\n" + RAMP.tobytes(),
        b"P5 4 1 65535\n" + samples16(0, 65 * 257, 131 * 257, 65535),
        b"P5 4 1 51\n" + bytes([0, 13, 26, 51]),
        b"P5 4 1 4095\n" + samples16(0, 1044, 2104, 4095),
        b"P2 4 1 1000\n0 255 514 1000\n",
    ],
)
def test_gray_maps_of_any_largest_value(raw):
    pixels = decode(raw)[0, 0].tolist()
    assert pixels[0] == 0
    assert pixels[3] == 255
    assert abs(pixels[1] - 65) <= 1
    assert abs(pixels[2] - 131) <= 1


def write_tiff(samples, *, bits, photometric=1, sample_format=1):
    """Write one row of gray samples as an uncompressed TIFF, little-endian."""
    tags = [(256, len(samples)), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    data = b"".join(samples)
    if bits == 12:
        values = [int.from_bytes(s, "little") for s in samples]
        text = "".join(f"{v:012b}" for v in values)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
    tags += [(279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 3 if tag != 273 else 4, 1, value) for tag, value in tags)
    data += b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize(("bits", "photometric"), [(8, 1), (8, 0), (12, 1), (16, 1), (16, 0)])
def test_unsigned_gray_tiffs_of_8_to_16_bits(bits, photometric):
    largest = (1 << bits) - 1
    levels = [round(int(v) / 255 * largest) for v in RAMP[0]]
    stored = [largest - v if photometric == 0 else v for v in levels]
    raw = write_tiff(
        [struct.pack("<H", v)[: 1 if bits == 8 else 2] for v in stored], bits=bits, photometric=photometric
    )
    pixels = decode(raw)
    assert (pixels[0, 0].int() - torch.from_numpy(RAMP[0]).int()).abs().max() <= 1


@pytest.mark.parametrize(
    "raw",
    [
        write_tiff([struct.pack("<f", 0.5)], bits=32, sample_format=3),
        write_tiff([struct.pack("<I", 7)], bits=32),
        write_tiff([struct.pack("<i", -7)], bits=32, sample_format=2),
        write_tiff([struct.pack("<h", -7)], bits=16, sample_format=2),
        write_tiff([struct.pack("<b", -7)], bits=8, sample_format=2),
    ],
)
def test_samples_without_a_defined_white_are_refused(raw):
    with pytest.raises(UserError, match=r"can't be decoded \(its samples are .*convert it to 8 or 16 bits"):
        decode(raw)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_modes_of_pillow(mode):
    dtype = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (4, 1), (RAMP.astype(dtype) * 257).astype(dtype).tobytes())
    assert to_rgb(image)[2].tolist() == RAMP.tolist()


def test_color_spaces_agree_with_formulas():
    red = Image.new("RGB", (1, 1), (200, 40, 40))
    for mode, tolerance in (("YCbCr", 2), ("HSV", 2), ("RGBX", 0), ("RGBA", 0)):
        assert (to_rgb(red.convert(mode)).flatten().int() - torch.tensor([200, 40, 40])).abs().max() <= tolerance
    # (255 − c)(255 − k)/255 of each ink
    assert to_rgb(Image.new("CMYK", (1, 1), (55, 155, 0, 51))).flatten().tolist() == [160, 80, 204]
    assert to_rgb(Image.new("RGBa", (1, 1), (50, 0, 0, 128))).flatten().tolist() == pytest.approx(
        [177, 127, 127], abs=1
    )
    assert to_rgb(Image.new("La", (1, 1), (50, 128))).flatten().tolist() == pytest.approx([177] * 3, abs=1)
    # CIE L* = 53.585 of a gray is 128 in sRGB; Pillow stores L as 255/100 of it.
    assert to_rgb(Image.new("LAB", (1, 1), (137, 128, 128))).flatten().tolist() == pytest.approx([128] * 3, abs=2)
    with pytest.raises(UnsupportedPixelsError, match="floats"):
        to_rgb(Image.new("F", (1, 1), 0.5))


def test_inks_of_a_cmyk_jpeg_are_stored_inverted_as_adobe_does():
    raw = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert (decode(raw)[:, 8, 8].int() - torch.tensor([255, 0, 0])).abs().max() <= 3


def test_images_that_look_equal_are_equal_whatever_their_invisible_colors():
    opacity = Image.fromarray(np.array([[255, 0, 100]], dtype=np.uint8))
    seen = []
    for hidden in (0, 77):
        image = Image.fromarray(np.array([[10, hidden, 30]], dtype=np.uint8))
        seen.append(to_rgb(Image.merge("LA", (image, opacity))))
    assert torch.equal(*seen)
    assert seen[0][0, 0].tolist() == [10, 255, round((30 * 100 + 255 * 155) / 255)]
    for mode in ("PA", "RGBA"):
        image = Image.merge("LA", (Image.fromarray(np.array([[10, 0, 30]], dtype=np.uint8)), opacity))
        assert torch.equal(to_rgb(image.convert("RGBA").convert(mode)), seen[0])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames_counts(kind):
    frames = [Image.new("RGB", (8, 6), color) for color in ((250, 0, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(raw)[:, 3, 3].tolist() == [250, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation):
    pixels = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image.getexif()[0x112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    upright = turn_upright(pixels, orientation)
    assert upright.is_contiguous()
    assert upright.numpy().tolist() == expected.tolist()
    assert torch.equal(upright_pixels(image), upright)


@pytest.mark.parametrize(("shape", "name"), [((0, 5), "L"), ((5, 0), "RGB")])
def test_an_image_without_pixels_is_refused(shape, name):
    with pytest.raises(UnsupportedPixelsError, match="no pixels"):
        to_rgb(Image.new(name, shape))
