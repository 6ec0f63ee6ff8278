"""What comes in as an image: what is read, how it becomes a network's input, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.image_nets import encoded, plain

from everloop.core.errors import InvalidInput, TooLarge
from everloop.runtime.picture import DESCRIBED, Preprocessing, decode, describe, read_base64, tensor_of

WANTED = Preprocessing(size=(8, 8))
MOST = 1_000_000
NOISE = PIL.Image.fromarray(np.random.default_rng(4).integers(0, 256, (30, 40, 3), np.uint8))


def pixels_of(data: bytes, wanted: Preprocessing = WANTED) -> Any:
    return decode(data, wanted, MOST, "image")[0]


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        ("GIF", "P"),
        ("BMP", "RGB"),
    ],
)
def test_every_format_and_mode_becomes_eight_bits(form: str, mode: str) -> None:
    grey = 255 if mode == "1" else 204  # which every mode knows
    pixels, size = decode(encoded(plain((grey,) * 3).convert(mode), form), WANTED, MOST, "image")
    assert (pixels.shape, pixels.dtype, size) == ((8, 8, 3), np.uint8, (16, 12))
    assert np.abs(pixels.astype(int) - grey).max() <= 4


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    image = PIL.Image.fromarray(np.full((9, 9), 32_896, np.uint16))
    assert (pixels_of(encoded(image)) == 128).all()


def test_what_is_transparent_lies_on_the_background() -> None:
    clear = encoded(plain((255, 0, 0, 0), mode="RGBA"))
    assert (pixels_of(clear) == 255).all()
    assert (pixels_of(clear, msgspec.structs.replace(WANTED, background=10)) == 10).all()
    palette = plain((0, 0, 0)).convert("P")
    assert (pixels_of(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))) == 255).all()


def test_the_first_frame_of_an_animation_counts() -> None:
    first, second = plain((255, 0, 0)), plain((0, 0, 255))
    for form in ("GIF", "WEBP", "PNG"):
        pixels = pixels_of(encoded(first, form, save_all=True, append_images=[second]))
        assert pixels[..., 0].min() > 200 > 50 > pixels[..., 2].max()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_was_held(orientation: int) -> None:
    from PIL import ImageOps

    image = PIL.Image.new("RGB", (24, 16), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 12, 8))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    upright = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    wanted = Preprocessing(size=(upright.height, upright.width), fit="stretch")
    pixels, size = decode(data, wanted, MOST, "image")
    assert size == upright.size
    np.testing.assert_array_equal(pixels, np.asarray(upright.convert("RGB")))


def test_damaged_orientation_is_no_reason_to_refuse_the_picture() -> None:
    assert (pixels_of(encoded(plain((9, 9, 9)), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")) == 9).all()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1001, 10_000, 60_000])
def test_a_file_that_claims_too_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(TooLarge, match="pixels") as caught:
        decode(png(side, side), WANTED, MOST, "image[3]")
    assert caught.value.field == "image[3]"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"<html>no such page</html>", "web page"),
        (b'{"error": 1}', "JSON"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"II*\x00\x08\x00\x00\x00", "TIFF"),
        (b"\x00\x00\x00\x20ftypavif", "HEIC, AVIF"),
        (b"%PDF-1.7", "no image"),
        (png(9, 9, b"\0" * 20), "damaged"),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_looks_like(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        pixels_of(data)
    assert caught.value.field == "image"


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.data())
def test_whatever_is_cut_or_damaged_is_the_callers_to_mend(form: str, draw: st.DataObject) -> None:
    whole = bytearray(encoded(NOISE, form))
    end = draw.draw(st.integers(0, len(whole)))
    for _ in range(draw.draw(st.integers(0, 3))):
        whole[draw.draw(st.integers(0, len(whole) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput, TooLarge):
        assert pixels_of(bytes(whole[:end])).shape == (8, 8, 3)


def test_half_a_picture_is_none() -> None:
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        data = encoded(NOISE, form)
        with pytest.raises(InvalidInput):
            pixels_of(data[: len(data) // 2])


@pytest.mark.parametrize("place", [20, 60, 1000, -9])
def test_a_png_whose_checksums_are_wrong_is_damaged(place: int) -> None:
    """In its header, at the beginning of its pixels, in the midst of them, in its end."""
    data = bytearray(encoded(NOISE))
    data[place] ^= 1
    with pytest.raises(InvalidInput, match=r"damaged|no image"):
        pixels_of(bytes(data))


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    data = encoded(NOISE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert pixels_of(data).shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="more than 100 scans"):
        pixels_of(data[:-2] + scan * 100 + data[-2:])


def test_a_compressed_bmp_is_refused_before_it_is_decoded() -> None:
    data = bytearray(encoded(NOISE.convert("P"), "BMP"))
    data[30:34] = struct.pack("<I", 1)
    with pytest.raises(InvalidInput, match="compressed BMP"):
        pixels_of(bytes(data))


@pytest.mark.parametrize("size", [(30_001, 1), (1, 30_001)])
def test_a_side_has_an_end(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="30,000"):
        pixels_of(png(*size))


@pytest.mark.parametrize("width", [384, 768])
def test_imagenets_preprocessing_is_what_torchvision_does(width: int) -> None:
    """Resize of the shorter side, the middle, (v / 255 - mean) / std, as `torchvision.transforms` say."""
    image = NOISE.resize((width, 384), PIL.Image.Resampling.BICUBIC)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = Preprocessing(size=(112, 112), crop=0.875, mean=mean, std=std)
    found = tensor_of([pixels_of(encoded(image), wanted)], wanted, np.float32)
    left = (width // 3 - 112) // 2
    resized = image.resize((width // 3, 128), PIL.Image.Resampling.BILINEAR).crop((left, 8, left + 112, 120))
    theirs = ((np.asarray(resized) / 255 - mean) / std).transpose(2, 0, 1)[None]
    assert found.shape == (1, 3, 112, 112)
    assert np.abs(found - theirs).max() < 0.02, "one of 255 steps"


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_another_aspect_ratio(fit: Any) -> None:
    image = plain((0, 0, 0), (30, 10))
    image.paste((250, 250, 250), (10, 0, 20, 10))
    pixels = pixels_of(encoded(image), Preprocessing(size=(10, 10), fit=fit, resample="box"))
    if fit == "crop":
        assert (pixels == 250).all()
    elif fit == "stretch":
        assert pixels[5, 5, 0] == 250 > pixels[5, 0, 0] == 0
    else:
        assert (pixels[0] == 255).all()
        assert pixels[5, 5, 0] > 200 > pixels[5, 0, 0]


def test_layouts_and_channel_orders() -> None:
    image = encoded(plain((255, 128, 0), (4, 4)))
    for layout, mode, first in (("NCHW", "RGB", 255), ("NHWC", "RGB", 255), ("NCHW", "BGR", 0), ("NHWC", "BGR", 0)):
        wanted = Preprocessing(size=(4, 4), layout=layout, mode=mode)  # type: ignore[arg-type]
        X = tensor_of([pixels_of(image, wanted)] * 2, wanted, np.uint8)
        assert X.shape == (2, *wanted.shape)
        assert (X[0, 0] if layout == "NCHW" else X[0, ..., 0]).max() == first


def test_ink_is_found_on_either_ground_at_any_place() -> None:
    wanted = Preprocessing(size=(8, 8), mode="L", fit="stretch", resample="box", invert="light_ground", trim=0.1)
    seen = []
    for ground, ink in ((255, 0), (0, 255)):
        for corner in ((3, 5), (60, 40)):
            image = plain(ground, (100, 80), "L")
            image.paste(ink, (*corner, corner[0] + 8, corner[1] + 16))
            seen.append(pixels_of(encoded(image), wanted)[..., 0])
    assert seen[0].tolist() == [[0, 0, 255, 255, 255, 255, 0, 0]] * 8
    assert all((each == seen[0]).all() for each in seen)
    assert (pixels_of(encoded(plain(0, mode="L")), wanted) == 0).all(), "where there is no ink, the whole image"


def test_a_description_tells_size_and_colours() -> None:
    told = dict(zip(DESCRIBED, describe(pixels_of(encoded(plain((255, 0, 51), (40, 20)))), (40, 20)), strict=True))
    assert (told["width"], told["height"]) == (40, 20)
    assert (told["red"], told["green"], told["blue"]) == pytest.approx((1, 0, 0.2), abs=1e-5)
    assert (told["saturation"], told["contrast"], told["sharpness"]) == pytest.approx((1, 0, 0), abs=1e-5)


@given(st.binary(max_size=200), st.booleans(), st.booleans(), st.booleans())
def test_base64_comes_in_every_usual_form(data: bytes, safe: bool, padded: bool, url: bool) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    assert read_base64(f"data:image/png;base64,{text}" if url else f" {text[:9]}\n{text[9:]} ", "image") == data


@pytest.mark.parametrize(
    ("text", "told"),
    [("a", "base64"), ("é" * 8, "base64"), ("data:image/png,abc", ";base64"), ("https://x/y.png", "image_url")],
)
def test_what_is_no_base64_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read_base64(text, "image")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (0, 8)), ("size", (8, 5000)), ("crop", 0.0), ("scale", 0.0), ("mean", (1.0, 2.0)), ("mean", (float("nan"),)),
        ("std", (0.0,)), ("background", 256), ("trim", 1.0),
    ],
)  # fmt: skip
def test_preprocessing_that_cannot_be_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        msgspec.structs.replace(WANTED, **{field: value}).validate()
    assert caught.value.field == field


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA", "I;16", "CMYK"])
def test_what_is_far_larger_is_made_smaller_first(mode: str) -> None:
    image = plain((0, 0, 0), (400, 300))
    image.paste((255, 255, 255), (200, 0, 400, 300))
    if mode == "I;16":
        image = PIL.Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    wanted = Preprocessing(size=(8, 8), fit="stretch", resample="box")
    pixels = pixels_of(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), wanted)
    assert pixels[:, :3].max() <= 8
    assert pixels[:, 5:].min() >= 247


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (30_000, 10), (1, 1)])
@pytest.mark.parametrize(
    "wanted",
    [
        *(Preprocessing(size=(8, 6), fit=fit) for fit in ("crop", "stretch", "pad")),  # type: ignore[arg-type]
        Preprocessing(size=(8, 8), mode="L", fit="stretch", trim=0.1),
    ],
    ids=["crop", "stretch", "pad", "trim"],
)
def test_a_strip_costs_no_more_than_it_is_long(size: tuple[int, int], wanted: Preprocessing) -> None:
    image = plain(255, size, "L")
    image.putpixel((0, 0), 0)
    image.putpixel((size[0] - 1, size[1] - 1), 0)
    assert pixels_of(encoded(image), wanted).shape == (*wanted.size, wanted.channels)
