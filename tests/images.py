"""Small image files for tests."""

import io

import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F


def encode_jpeg(width, height, seed=0, mode="RGB"):
    """Encode a smooth random image, like a photograph, as JPEG."""
    generator = torch.Generator().manual_seed(seed)
    pixels = F.resize(torch.rand(3, 6, 8, generator=generator), [height, width], antialias=True)
    file = io.BytesIO()
    F.to_pil_image(pixels).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def make_image_folder(root, **counts):
    """Write JPEG images of the classes ant and bee, with that many images per split, half of them of each class."""
    for split, count in counts.items():
        for label, name in enumerate(("ant", "bee")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count // 2):
                (folder / f"{index}.jpg").write_bytes(encode_jpeg(40 + index, 30, seed=100 * label + index))
    return root


INVERSE_ORIENTATION = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def encode_turned(pixels, orientation, kind="PNG", **options):
    """Encode an upright image (3, H, W) as a camera does: turned, with the EXIF orientation that turns it back."""
    image = F.to_pil_image(pixels)
    exif = Image.Exif()
    exif[0x112] = INVERSE_ORIENTATION[orientation]
    image.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(image)
    exif[0x112] = orientation
    file = io.BytesIO()
    stored.save(file, kind, exif=exif, **options)
    return file.getvalue()
