"""From an encoded image to what a network takes: decoding under limits, and the preprocessing that a model was trained with.

    bytes ─► header: format, pixels ─► decode ─► upright, one of RGB or L, 8 bits ─► invert, trim ─► resize ─► (v·scale − mean) / std

What comes in was written by anybody. So the formats are few and named, and before a pixel is decoded the header's size is held against
`most_pixels` and `LONGEST_SIDE` (a few kilobytes can claim to be gigabytes), and what would take a decoder minutes is refused: a JPEG of
thousands of scans, each of which goes over the whole image, and a run-length encoded BMP, which Pillow decodes in Python. A PNG's
checksums are compared, which Pillow leaves out for the pixels; the other formats have none. What is cut short is refused and not filled up with grey, and whatever a decoder
raises is the caller's to mend. Of an animation the first frame counts. What is far larger than the network's input is made smaller first,
a JPEG while it is decoded, which its format allows (`Image.draft`).
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np

from everloop.core.errors import InvalidInput, TooLarge
from everloop.core.structs import looked_into

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow's names of what is decoded: what browsers and cameras write. Others have decoders that saw less scrutiny."""
SHOWN_FORMATS = "PNG, JPEG, WebP, GIF or BMP"
MOST_PIXELS = 36_000_000
"""Of one image: more than a frame of 8K film. Decoding it takes up to 300 MB, of a WebP up to 600 MB."""
LONGEST_SIDE = 30_000
"""Pixels: a strip costs far more than as many pixels of a picture, for rows and columns have their own price."""
MOST_SCANS = 100
"""Of a JPEG. Cameras and browsers write ten or so, when they write progressive ones at all."""
LARGEST_SIDE = 4096
"""Of a network's input."""
MOST_TRIMMED = 1024
"""Pixels of the shorter side of an image whose ink is looked for: one of twice as many is made smaller before."""
DESCRIBED = ("width", "height", "red", "green", "blue", "brightness", "contrast", "saturation", "sharpness")
"""What `describe` tells, in this order."""
_SCAN = b"\xff\xda"
"""The marker of a JPEG's scan; in what is encoded, FF is followed by something else (ITU-T T.81, B.1.1.5)."""
_EXIF_ORIENTATION = 0x0112
_DRAFT = 3
"""A JPEG is decoded at no less than so many times the size that is wanted: the rest of the way is a proper filter's."""
_URL_SAFE = str.maketrans("-_", "+/")
_UNDECODABLE: tuple[type[BaseException], ...] = (
    UserWarning,  # where warnings are errors
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files."""

Pixels: TypeAlias = "NDArray[np.uint8]"
"""(height, width, 3), or (height, width, 1) of grey."""


@looked_into
class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network takes, as its manifest keeps it under `options.image`."""

    size: tuple[int, int]
    """Height and width of the network's input."""
    mode: Literal["RGB", "BGR", "L"] = "RGB"
    """Its channels; L: one, grey."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    fit: Literal["crop", "stretch", "pad"] = "crop"
    """How another aspect ratio gets there: its middle is taken, it is squeezed, or it is put on the background."""
    crop: float = 1.0
    """With `fit` crop: the share of the shorter side that is kept; 0.875 is "resize to 256, take the middle 224"."""
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    scale: float = 1 / 255
    """A value of 0 to 255 times this is what `mean` and `std` are told of."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    background: int = 255
    """The grey on which transparent images and `fit` pad lie."""
    invert: Literal["never", "always", "light_ground"] = "never"
    """`light_ground`: where most of the border is light, as ink on paper."""
    trim: float = 0.0
    """Cut an image to what differs from its border by more than this share of the range, and make that square; 0: leave it whole."""

    @property
    def channels(self) -> int:
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one input."""
        height, width = self.size
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)

    def validate(self) -> None:
        """Raises InvalidInput naming the field."""
        for name, bad, wanted in (
            ("size", not all(1 <= side <= LARGEST_SIDE for side in self.size), f"two sides of 1 to {LARGEST_SIDE}"),
            ("crop", not 0.1 <= self.crop <= 1, "a share from 0.1 to 1"),
            ("scale", not _sound(self.scale), "a finite number other than 0"),
            ("mean", not self._per_channel(self.mean) or not np.isfinite(self.mean).all(), "one finite number, or one a channel"),
            ("std", not self._per_channel(self.std) or not all(map(_sound, self.std)), "one number other than 0, or one a channel"),
            ("background", not 0 <= self.background <= 255, "a grey from 0 to 255"),
            ("trim", not 0 <= self.trim < 1, "a share from 0 to below 1"),
        ):  # fmt: skip
            if bad:
                raise InvalidInput(f"{name}: expected {wanted}, got {getattr(self, name)!r}", field=name)

    def _per_channel(self, values: tuple[float, ...]) -> bool:
        return len(values) in (1, self.channels)


def decode(data: bytes, wanted: Preprocessing, most_pixels: int, at: str) -> tuple[Pixels, tuple[int, int]]:
    """The pixels in the size that the network takes, not yet scaled; and width and height of the whole image, upright.

    `at` names the image in messages. Raises InvalidInput (no such image, damaged), TooLarge (too many pixels)."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"{at}: {error}", field=at) from error
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{at}: {_looks(data)}; expected {SHOWN_FORMATS}", field=at) from error
    except _UNDECODABLE as error:
        raise _damaged(at, error) from error
    with image:
        width, height = image.size
        if width * height > most_pixels:
            raise TooLarge(f"{at}: {width} x {height} is more than {most_pixels:,} pixels", field=at)
        if max(width, height) > LONGEST_SIDE:
            raise TooLarge(f"{at}: {width} x {height}: a side has at most {LONGEST_SIDE:,} pixels", field=at)
        _check_coding(image, data, at)
        try:
            turned = _orientation(image)
            side = MOST_TRIMMED if wanted.trim else _DRAFT * max(wanted.size)
            if image.format == "JPEG":
                image.draft(None, (side, side))
            plain = _plain(_reduced(image, side), wanted)
        except _UNDECODABLE as error:
            raise _damaged(at, error) from error
    if turned is not None:
        plain = plain.transpose(turned)
        if turned in _SIDEWAYS:
            width, height = height, width
    return _fitted(_trimmed(_inverted(plain, wanted), wanted), wanted), (width, height)


def _check_coding(image: Image, data: bytes, at: str) -> None:
    """Raises InvalidInput, TooLarge for what must not be decoded."""
    if image.format == "JPEG" and data.count(_SCAN) > MOST_SCANS:
        raise TooLarge(f"{at}: a JPEG of more than {MOST_SCANS} scans", field=at)
    if image.format == "BMP" and any(each[0] == "bmp_rle" for each in getattr(image, "tile", ())):
        raise InvalidInput(f"{at}: a compressed BMP, which is not read; expected {SHOWN_FORMATS}", field=at)
    if image.format == "PNG":
        _check_sums(data, at)


def _check_sums(data: bytes, at: str) -> None:
    """Of a PNG's critical chunks, which begin with a capital (ISO/IEC 15948, 5.3 to 5.5). Raises InvalidInput."""
    whole, place = memoryview(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(whole[place : place + 4], "big")
        kind = bytes(whole[place + 4 : place + 8])
        if kind[:1].isupper() and zlib.crc32(whole[place + 4 : end]) != int.from_bytes(whole[end : end + 4], "big"):
            raise _damaged(at, ValueError(f"the checksum of its chunk {kind.decode('latin-1')} is wrong"))
        if kind == b"IEND":
            return
        place = end + 4


def read_base64(text: str, at: str) -> bytes:
    """The bytes of base64 (RFC 4648, with either alphabet, padded or not) or of a `data:` URL of it (RFC 2397). Raises InvalidInput."""
    head, comma, _ = text[:256].partition(",")
    if comma and head.lstrip().lower().startswith("data:"):
        if not head.lower().rstrip().endswith(";base64"):
            raise InvalidInput(f"{at}: a data: URL has to say ;base64, got {head[:60]!r}", field=at)
        text = text[len(head) + 1 :]
    elif "://" in text[:40]:
        raise InvalidInput(f"{at}: expected base64, got an address: that is what image_url is for", field=at)
    packed = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{at}: expected base64: {error}", field=at) from error


def tensor_of(images: list[Pixels], wanted: Preprocessing, dtype: Any) -> NDArray[Any]:
    """(n, *wanted.shape) as the network takes it."""
    values: NDArray[Any] = np.stack(images)
    if wanted.mode == "BGR":
        values = values[..., ::-1]
    if dtype != np.uint8:
        scale = np.asarray(wanted.scale, np.float32) / np.asarray(wanted.std, np.float32)
        shift = np.asarray(wanted.mean, np.float32) / np.asarray(wanted.std, np.float32)
        values = values * scale - shift
    if wanted.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values, dtype)


def describe(pixels: Pixels, size: tuple[int, int]) -> list[float]:
    """An image as a few numbers, `DESCRIBED`: enough to see that other images come than before. `size`: width and height of the whole
    image. Colours and shares are from 0 to 1."""
    values = pixels.astype(np.float32) / 255
    red, green, blue = (values[..., i % values.shape[2]] for i in range(3))
    grey = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    saturation = values.max(axis=2) - values.min(axis=2)
    steps = [np.abs(np.diff(grey, axis=axis)).mean() if grey.shape[axis] > 1 else 0.0 for axis in (0, 1)]
    told = (red.mean(), green.mean(), blue.mean(), grey.mean(), grey.std(), saturation.mean(), sum(steps) / 2)
    return [float(size[0]), float(size[1]), *(round(float(each), 6) for each in told)]


def _reduced(image: Image, side: int) -> Image:
    """To a shorter side of `side`, where it is far larger: what is done to all of its pixels would take time and memory for nothing."""
    factor = min(image.size) / side
    if factor < 2 or image.mode.startswith("I"):
        return image
    from PIL.Image import Resampling

    if image.mode in ("P", "PA", "1"):  # their values are names of colours, which have no mean
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.resize((round(image.width / factor), round(image.height / factor)), Resampling.BOX)


def _plain(image: Image, wanted: Preprocessing) -> Image:
    """Eight bits, RGB or grey, on the background where it is transparent."""
    mode = "L" if wanted.mode == "L" else "RGB"
    if image.mode.startswith("I") or image.mode == "F":  # grey of 16 bits; Pillow would cut off what is above 255
        import PIL.Image

        values = np.clip(np.asarray(image, np.float32) / 257, 0, 255).round().astype(np.uint8)
        return PIL.Image.fromarray(values).convert(mode)
    if image.has_transparency_data:
        import PIL.Image

        seen = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", seen.size, (wanted.background,) * 3 + (255,))
        return PIL.Image.alpha_composite(ground, seen).convert(mode)
    return image.convert(mode)


def _inverted(image: Image, wanted: Preprocessing) -> Image:
    if wanted.invert == "never" or (wanted.invert == "light_ground" and _ground(image) < 128):
        return image
    from PIL import ImageChops

    return ImageChops.invert(image)


def _trimmed(image: Image, wanted: Preprocessing) -> Image:
    """Cut to what is not ground, on a square of the ground."""
    if not wanted.trim:
        return image
    import PIL.Image

    grey, ground = np.asarray(image.convert("L"), np.int16), _ground(image)
    ink = np.abs(grey - ground) > 255 * wanted.trim
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return image
    left, top, right, bottom = (int(each) for each in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    cut = image.crop((left, top, right, bottom))
    cut.thumbnail((MOST_TRIMMED, MOST_TRIMMED), PIL.Image.Resampling.BOX)  # of a strip a square would be far more
    side = max(cut.size)
    square = PIL.Image.new(image.mode, (side, side), (ground,) * len(image.getbands()))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def _ground(image: Image) -> int:
    """The grey that most of the border has."""
    grey = np.asarray(image.convert("L"))
    return int(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))


def _fitted(image: Image, wanted: Preprocessing) -> Pixels:
    from PIL.Image import Resampling

    height, width = wanted.size
    resample = Resampling[wanted.resample.upper()]
    box: tuple[float, float, float, float] = (0.0, 0.0, float(image.width), float(image.height))
    if wanted.fit == "crop":
        scale = min(image.width / width, image.height / height) * wanted.crop
        across, down = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (max(across, 0.0), max(down, 0.0), min(image.width - across, box[2]), min(image.height - down, box[3]))
    if wanted.fit == "pad":
        from PIL import ImageOps

        image = ImageOps.pad(image, (width, height), resample, (wanted.background,) * len(image.getbands()))
    elif image.size != (width, height) or box != (0.0, 0.0, width, height):
        image = image.resize((width, height), resample, box, reducing_gap=3.0)
    return np.asarray(image, np.uint8).reshape(height, width, wanted.channels)


def _orientation(image: Image) -> Any:
    """How a camera was held (Exif 2.32, tag 0x0112): the turn that makes it upright; None where nothing is told."""
    try:
        told = image.getexif().get(_EXIF_ORIENTATION)
    except _UNDECODABLE:
        return None  # the picture is whole, and only what is told about it is damaged
    return _turns().get(told) if isinstance(told, int) else None


def _turns() -> dict[int, Any]:
    from PIL.Image import Transpose

    kinds = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    return {number: Transpose[kind] for number, kind in enumerate(kinds, 2)}


_SIDEWAYS = (2, 4, 5, 6)
"""Of `PIL.Image.Transpose`: those that exchange width and height."""


def _looks(data: bytes) -> str:
    start = data[:256].lstrip().lower()
    if not data:
        return "empty"
    if start.startswith((b"<svg", b"<?xml")) and b"svg" in data[:1024].lower():
        return "an SVG drawing, which is no picture of pixels"
    if start.startswith((b"<", b"{")):
        return "a web page, XML or JSON, and no image"
    if start.startswith((b"ii*\x00", b"mm\x00*")):
        return "a TIFF file, which is not read"
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file, which is not read"
    return f"no image that can be read ({len(data):,} bytes)"


def _damaged(at: str, error: BaseException) -> InvalidInput:
    told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return InvalidInput(f"{at}: the image is damaged: {told}", field=at)


def _sound(value: float) -> bool:
    return value != 0 and value - value == 0.0
