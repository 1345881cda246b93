"""From the bytes of an image to the network's input, without torch.

The numbers are those of torchvision 0.29: its rules for sizes, and pixels that its own
transforms gave for the same image.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("oip_handler_alexnet", reason="the plugin is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from PIL import Image

from oip_handler_alexnet.images import prepare

Picture = Callable[..., bytes]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LIMIT = 50_000_000


def normalised(red: int, green: int, blue: int) -> list[float]:
    """Return a colour of 0 to 255 as the network's input."""
    colours = zip((red, green, blue), MEAN, DEVIATION, strict=True)
    return [(colour / 255 - mean) / deviation for colour, mean, deviation in colours]


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        pytest.param((300, 333), (256, 284), (16, 30), id="tall"),
        pytest.param((333, 300), (284, 256), (30, 16), id="wide"),
        pytest.param((500, 375), (341, 256), (58, 16), id="58.5 is 58"),
        pytest.param((343, 256), (343, 256), (60, 16), id="59.5 is 60"),
        pytest.param((256, 256), (256, 256), (16, 16), id="as it is"),
        pytest.param((640, 480), (341, 256), (58, 16), id="half"),
        pytest.param((37, 91), (256, 629), (16, 202), id="enlarged"),
        pytest.param((1, 1), (256, 256), (16, 16), id="one pixel"),
        pytest.param((2, 200), (256, 25600), (16, 12688), id="strip"),
    ],
)
def test_image_is_resized_and_cropped_as_by_torchvision(
    picture: Picture,
    size: tuple[int, int],
    resized: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    """The shorter edge becomes 256 pixels, and the middle 224 x 224 are used."""
    file = picture(0, *size)
    left, top = corner
    image = Image.open(BytesIO(file)).resize(resized, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[top : top + 224, left : left + 224]
    expected = (pixels / 255 - MEAN) / DEVIATION
    found = prepare(file, LIMIT)
    assert ((3, 224, 224), np.dtype(np.float32)) == (found.shape, found.dtype)
    np.testing.assert_allclose(expected.transpose(2, 0, 1), found, atol=1e-5)


def test_pixels_are_those_of_torchvision(picture: Picture) -> None:
    """Some pixels and the mean of each colour equal those of torchvision's transforms.

    A shade of 1 in 255 is allowed, in case another Pillow rounds differently.
    """
    found = prepare(picture(), LIMIT)
    golden = {
        (0, 0, 0): 1.94066,
        (1, 100, 50): 0.64286,
        (2, 223, 223): 1.19338,
        (0, 223, 0): -0.01156,
        (1, 17, 200): 0.18768,
        (2, 112, 112): 2.37856,
    }
    assert golden == pytest.approx({at: found[at] for at in golden}, abs=0.018)
    means = found.mean(axis=(1, 2)).tolist()
    assert [0.06505, 0.14551, 0.41778] == pytest.approx(means, abs=1e-3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        pytest.param("RGB", (10, 20, 30), (10, 20, 30), id="RGB"),
        pytest.param("RGBA", (10, 20, 30, 0), (10, 20, 30), id="transparent"),
        pytest.param("L", 40, (40, 40, 40), id="grey"),
        pytest.param("LA", (40, 0), (40, 40, 40), id="grey and transparent"),
        pytest.param("1", 1, (255, 255, 255), id="black and white"),
        pytest.param("I;16", 0x8012, (128, 128, 128), id="grey of 16 bits"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, colour: Any, expected: Any) -> None:
    """Transparent pixels have the colour below; grey has three equal channels."""
    if mode == "I;16":
        image = Image.fromarray(np.full((30, 20), colour, np.uint16))
    else:
        image = Image.new(mode, (20, 30), colour)
    assert_uniform(prepare(saved(image), LIMIT), expected)


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128])], ids=str)
def test_palette_becomes_its_colours(transparency: Any) -> None:
    """An index is replaced by its colour, without Pillow's transparency warning."""
    image = Image.new("P", (20, 30), 1)
    image.putpalette([1, 2, 3, 10, 20, 30])
    options = {} if transparency is None else {"transparency": transparency}
    assert_uniform(prepare(saved(image, **options), LIMIT), (10, 20, 30))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
    ],
    ids=["JPEG", "PNG", "WEBP", "GIF", "BMP"],
)
def test_every_format_is_read(kind: str, options: Any) -> None:
    """Each format in the README's list is read."""
    image = Image.new("RGB", (20, 30), (40, 80, 120))
    assert_uniform(prepare(saved(image, kind, **options), LIMIT), (40, 80, 120), 0.03)


def test_cmyk_jpeg_becomes_rgb() -> None:
    """In CMYK no ink is white."""
    image = Image.new("CMYK", (20, 30), (0, 0, 0, 0))
    assert_uniform(prepare(saved(image, "JPEG"), LIMIT), (255, 255, 255), 0.03)


def test_only_the_first_frame_is_used() -> None:
    """An animated GIF is read as its first image."""
    first, second = (Image.new("RGB", (20, 30), (n, n, n)) for n in (40, 200))
    file = saved(first, "GIF", save_all=True, append_images=[second])
    assert_uniform(prepare(file, LIMIT), (40, 40, 40), 0.03)


def assert_uniform(
    found: NDArray[Any], colour: tuple[int, int, int], tolerance: float = 1e-5
) -> None:
    """Expect every pixel to have the colour."""
    expected = np.broadcast_to(np.reshape(normalised(*colour), (3, 1, 1)), found.shape)
    np.testing.assert_allclose(expected, found, atol=tolerance)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(b"", "no bytes, expected the file of an image", id="empty"),
        pytest.param(b"hello", "5 bytes that are none of JPEG, PNG", id="text"),
        pytest.param(b"\xff\xd8\xff", "none of JPEG|a broken", id="head of a JPEG"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of", id="EPS"
        ),
    ],
)
def test_bytes_that_are_no_image_are_refused(data: bytes, said: str) -> None:
    """The error says what was found, and shows no memory address."""
    with pytest.raises(ValueError, match=said) as refusal:
        prepare(data, LIMIT)
    assert "0x" not in str(refusal.value)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_image_is_refused(picture: Picture, kind: str, part: float) -> None:
    """The missing part is never filled with grey."""
    file = picture(0, kind=kind)
    with pytest.raises(ValueError, match="a broken"):
        prepare(file[: int(len(file) * part)], LIMIT)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        pytest.param(
            (200, 501), r"it has 200 x 501 pixels, .* 100000 \(max_pixels\)", id="large"
        ),
        pytest.param((1, 2000), "256 x 512000 pixels when it is resized", id="narrow"),
        pytest.param((30_000, 30_000), "more pixels than Pillow reads", id="bomb"),
    ],
)
def test_image_with_too_many_pixels_is_refused(
    size: tuple[int, int], said: str
) -> None:
    """A small file must not need much memory, neither when read nor when resized."""
    file = saved(Image.new("1", size))
    assert 200_000 > len(file)
    with pytest.raises(ValueError, match=said):
        prepare(file, 100_000)


def test_pixels_are_counted_from_the_header() -> None:
    """The rest of the file need not be there."""
    file = saved(Image.new("1", (8000, 8000)))
    with pytest.raises(ValueError, match="it has 8000 x 8000 pixels"):
        prepare(file[:100], LIMIT)
