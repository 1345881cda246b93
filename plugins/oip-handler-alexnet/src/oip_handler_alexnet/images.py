"""From the bytes of an image's file to the pixels that AlexNet sees.

The pixels are to the bit those of torchvision's `Resize(256)`, `CenterCrop(224)`,
`ToTensor()` and `Normalize()` on a Pillow image in RGB.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["FORMATS", "SIZE", "prepare"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The accepted formats. Pillow has others that start programs (EPS) or are rare."""
SIZE = 224
"""The edge of the square that the network sees, in pixels."""
_SHORT_EDGE = 256
_BILINEAR = Image.Resampling.BILINEAR
# mean and standard deviation of ImageNet's red, green and blue
_MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)

Array = NDArray[Any]


def prepare(data: bytes, max_pixels: int) -> Array:
    """Return the image as FP32 [3, 224, 224]: red, green and blue, normalised.

    Raises ValueError if the bytes are not an image of `FORMATS` or are broken, or if
    the image has more pixels than `max_pixels` before or after resizing.
    """
    image = _open(data)
    size = _find_size(image.width, image.height)
    for (width, height), when in ((image.size, ""), (size, " when it is resized")):
        if width * height > max_pixels:
            raise ValueError(
                f"it has {width} x {height} pixels{when}, expected up to {max_pixels} "
                "(max_pixels)"
            )
    return _normalise(_crop(_to_rgb(_load(image)).resize(size, _BILINEAR)))


def _open(data: bytes) -> Image.Image:
    """Read the head of an image, and none of its pixels."""
    if not data:
        raise ValueError("no bytes, expected the file of an image")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("it has more pixels than Pillow reads") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{len(data)} bytes that are none of {', '.join(FORMATS)}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a broken head: each format has errors of its own
        raise ValueError(f"a broken image ({error})") from error


def _load(image: Image.Image) -> Image.Image:
    """Read the pixels of an image, or of its first frame."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as for the head
        raise ValueError(f"a broken {image.format} ({error})") from error
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; transparency shows the colour below it."""
    if image.mode.startswith("I"):  # 16 bits, most of which Pillow would cut off
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image.convert("RGB")


def _find_size(width: int, height: int) -> tuple[int, int]:
    """Return the size with a shorter edge of 256, rounded as torchvision rounds."""
    if width <= height:
        return _SHORT_EDGE, int(_SHORT_EDGE * height / width)
    return int(_SHORT_EDGE * width / height), _SHORT_EDGE


def _crop(image: Image.Image) -> Image.Image:
    """Cut out the middle; `round` takes a half to the even pixel, as torchvision."""
    left, top = (round((edge - SIZE) / 2) for edge in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


def _normalise(image: Image.Image) -> Array:
    """Return the pixels as FP32 [3, height, width] with ImageNet's mean and spread."""
    pixels: Array = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= 255
    pixels -= _MEAN
    pixels /= _DEVIATION
    return pixels
