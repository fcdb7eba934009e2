"""Pixels of Pillow images: any mode and bit depth as upright 8-bit RGB."""

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# A PNG gives its transparent color in samples of its own bit depth, and Pillow scales pixels only.
COLOR_KEY_SCALES = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


class UnsupportedPixelsError(ValueError):
    """The image has pixels without a defined white."""


def to_rgb(image: Image.Image) -> Tensor:
    """Return the pixels as they are stored, not turned, in RGB: (3, H, W) uint8.

    Samples of 1 to 16 bits are scaled so that the largest one is 255; of 16 bits the upper 8 count. What is transparent
    shows white, as on a page: the colors that a file has below transparent pixels are arbitrary. Of several frames or
    pages, the first one counts.

    Args:
        image: an image in any of Pillow's modes.

    Raises:
        UnsupportedPixelsError: the samples are floats, signed, or integers of 32 bits, for which no file says what
            white is.
    """
    if image.width < 1 or image.height < 1:
        raise UnsupportedPixelsError("it has no pixels")
    image.load()
    check_samples(image)
    mask, key = None, image.info.get("transparency")
    if key is not None and image.mode != "P":
        if image.mode in ("1", "L", "RGB") or image.mode.startswith("I"):
            mask = Image.fromarray(255 * differs(np.asarray(image), key).astype(np.uint8))
        image = image.copy()
        del image.info["transparency"]  # Pillow's conversions would take it into account, in part
    if image.mode.startswith("I"):
        image = Image.fromarray(upper_bits(image))
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        mask = image.getchannel("A")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if mask is not None and mask.getextrema() != (255, 255):
        page = Image.new("RGB", rgb.size, "white")
        page.paste(rgb, mask=mask)
        rgb = page
    return F.pil_to_tensor(rgb)


def check_samples(image: Image.Image) -> None:
    """Check that the samples have a defined white. Raises as `to_rgb`."""
    kind = None
    if image.mode == "F":
        kind = "floats"
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # these have at most 16 bits
        kind = "signed or of 32 bits"
    elif image.format == "TIFF" and 2 in tiff_values(image, 339, 1):
        kind = "signed"
    if kind is not None:
        raise UnsupportedPixelsError(f"its samples are {kind}, without a defined white; convert it to 8 or 16 bits")


def tiff_values(image: Image.Image, tag: int, default: int) -> tuple[int, ...]:
    """Return the values of a tag of a TIFF file."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def upper_bits(image: Image.Image) -> np.ndarray:
    """Return the upper 8 bits of gray samples of 12 or 16 bits: (H, W) uint8."""
    samples, bits = np.asarray(image), 16
    if image.format == "TIFF":
        bits = tiff_values(image, 258, 16)[0]
        if tiff_values(image, 262, 1)[0] == 0:  # 0 is white; of the 16-bit modes, Pillow doesn't invert them
            samples = (1 << bits) - 1 - samples
    return (samples >> (bits - 8)).astype(np.uint8)


def differs(pixels: np.ndarray, color: int | tuple[int, ...] | bytes) -> np.ndarray:
    """Return which pixels differ from a color: (H, W) or (H, W, 3) → (H, W)."""
    different = pixels != np.asarray(color if isinstance(color, int) else tuple(color))
    return different if different.ndim == 2 else different.any(-1)


def scale_color_key(image: Image.Image) -> None:
    """Give an opened PNG's transparent color in the samples that Pillow decodes."""
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    scale = COLOR_KEY_SCALES.get(str(tiles[0].args)) if tiles else None
    if key is not None and scale is not None:
        image.info["transparency"] = tuple(int(scale * v) for v in key) if isinstance(key, tuple) else int(scale * key)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation by which the stored pixels have to be turned, 1 for upright ones.

    A damaged EXIF block or an undefined value counts as upright. Pillow itself turns a TIFF.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises many types
        return 1
    return int(value) if value in range(1, 9) else 1


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """Turn and mirror stored pixels by their EXIF orientation: (C, H, W) → (C, H, W) or (C, W, H)."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(-1, -2)
    axes = {2: [-1], 3: [-1, -2], 4: [-2], 5: [], 6: [-1], 7: [-1, -2], 8: [-2]}[orientation]
    return pixels.flip(axes).contiguous(memory_format=torch.contiguous_format)


def upright_pixels(image: Image.Image) -> Tensor:
    """Return the pixels of an image in RGB, upright: (3, H, W) uint8. Raises as `to_rgb`."""
    orientation = read_orientation(image)
    return turn_upright(to_rgb(image), orientation)
