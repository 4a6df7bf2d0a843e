"""Which image files are taken, and what becomes of each.

Greyscale (1 or 8 bits) stays greyscale and everything else becomes RGB. An alpha channel or a transparent colour is
dropped if every pixel is opaque, and the image refused if not: what lies behind is nobody's to guess. So are images of
more than 8 bits a channel and other modes (CMYK, floating point), whose range or meaning a conversion would change.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from stylegan_errors import StyleganError

NAMED = 5  # offenders that an error names

GREY = {"1", "L", "LA"}
COLOR = {"RGB", "RGBA", "P", "PA"}
ALPHA = {"LA", "RGBA", "PA"}

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow's readers raise on damaged files."""


def is_deep(image: Image.Image) -> bool:
    """Return whether `image` has 16 bits a channel on disk, which Pillow cuts down to 8 without a word."""
    args = [tile[3] for tile in getattr(image, "tile", [])]
    raw = [arg if isinstance(arg, str) else arg[0] for arg in args if arg]
    return any(isinstance(mode, str) and ";16" in mode for mode in raw)


def opened(content: bytes, where: str) -> Image.Image:
    """Return the image in `content`, not decoded yet unless it has transparency, of mode 1, L, P or RGB.

    Raises:
        StyleganError: it is refused; the line begins with `where`.
    """
    try:
        image: Any = Image.open(io.BytesIO(content))
        if is_deep(image) or image.mode not in GREY | COLOR:
            told = "16 bits a channel" if is_deep(image) else f"mode {image.mode}"
            raise StyleganError(f"{where} has {told}; only 8-bit greyscale and RGB can be used")
        if image.mode in ALPHA or "transparency" in image.info:
            grey = image.mode in GREY
            image = image.convert("LA" if grey else "RGBA")
            if image.getchannel("A").getextrema()[0] < 255:
                raise StyleganError(f"{where} has transparent pixels; put it on a background first")
            image = image.convert("L" if grey else "RGB")
    except UNREADABLE as error:
        raise StyleganError(f"{where} is not a readable image ({told_damage(error)})") from None
    return image


def told_damage(error: Exception) -> str:
    """Return what `error` says, without the address of the buffer that Pillow tells of."""
    return "of no known format" if isinstance(error, Image.UnidentifiedImageError) else str(error) or "damaged"


def channels_of(image: Image.Image) -> int:
    """Return 1 for greyscale and 3 for colour."""
    return 1 if image.mode in GREY else 3


def pixels_of(image: Image.Image, where: str) -> np.ndarray:
    """Return the pixels (H, W, 1 or 3) uint8 of an `opened` image.

    Raises:
        StyleganError: it is damaged.
    """
    try:
        array = np.asarray(image.convert("L" if channels_of(image) == 1 else "RGB"))
    except UNREADABLE as error:
        raise StyleganError(f"{where} is not a readable image ({told_damage(error)})") from None
    return array.reshape(*array.shape[:2], -1)


def verify(image: Image.Image, where: str) -> None:
    """Raise `StyleganError` if the checksums of an `opened` PNG are wrong or it ends early; it is of no use then."""
    try:
        image.verify()
    except UNREADABLE as error:
        raise StyleganError(f"{where} is not a readable image ({told_damage(error)})") from None


def size_fault(size: tuple[int, int]) -> str | None:
    """Return what is wrong with an image of `size` (width, height) to train on, if anything."""
    width, height = size
    if width != height:
        return f"is {width} x {height} pixels, not square"
    if width & (width - 1):
        return f"is {width} x {height} pixels, not a power of two"
    return None


def refuse_faults(faults: list[str], count: int, remedy: str) -> None:
    """Raise `StyleganError` naming the first of the `faults`, if there are any, of `count` images."""
    if faults:
        more = f" ... and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        told = "; ".join(faults[:NAMED])
        raise StyleganError(f"{len(faults)} of {count} images cannot be used: {told}{more}; {remedy}")


def decoded(content: bytes, resolution: int, channels: int, where: str) -> np.ndarray:
    """Return the pixels (channels, resolution, resolution) uint8 of the file `content`.

    Raises:
        StyleganError: it is refused, damaged, of another size, or in colour where greyscale is wanted.
    """
    image = opened(content, where)
    refuse_unlike(image, resolution, channels, where)
    pixels = pixels_of(image, where).transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(pixels, (channels, *pixels.shape[1:])))


def refuse_unlike(image: Image.Image, resolution: int, channels: int, where: str) -> None:
    """Raise `StyleganError` if `image` is not `resolution` pixels a side, or is in colour where `channels` is 1."""
    if image.size != (resolution, resolution):
        wrong = size_fault(image.size) or f"is {image.size[0]} x {image.size[1]} pixels"
        raise StyleganError(f"{where} {wrong}; the first image is {resolution} x {resolution}")
    if channels == 1 and channels_of(image) == 3:
        raise StyleganError(f"{where} is in colour; the first image is greyscale")
