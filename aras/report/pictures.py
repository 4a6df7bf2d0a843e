"""The page's images: embedded in it, or in files beside it, as few sheets of many small ones."""

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from aras.files import remove_parts, write_bytes
from aras.report.page import Picture, Sprite

SHEET = 2048  # pixels, the side of a sheet
GRAIN = 16  # pixels: sprites begin at multiples of it, so that the blocks of a lossy image hold no two sprites
QUALITY = 80  # of lossy WebP
OWN_FILE = re.compile(r"[0-9a-f]{20}\.(?:webp|png)")


class Store:
    """Where images go.

    Attributes:
        folder: the folder beside the page; None when images are embedded in it.
        names: the files written there.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def source(self, content: bytes, kind: str) -> str:
        """Return what a page says to show the image `content` of the `kind` webp or png; the file is written.

        A file is named by its content, so equal ones are one, and a page that is still open keeps its own.
        """
        if self.folder is None:
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        name = f"{hashlib.sha256(content).hexdigest()[:20]}.{kind}"
        if name not in self.names:
            write_bytes(self.folder / name, content, durable=False)
            self.names.add(name)
        return f"{self.folder.name}/{name}"

    def picture(self, image: Image.Image, alt: str, lossless: bool = False) -> Picture:
        """Return the picture of `image`."""
        return Picture(self.source(webp(image, lossless), "webp"), image.width, image.height, alt)


def remove_others(folder: Path, names: set[str]) -> None:
    """Delete what earlier pages left in `folder` but for `names`, and the folder when it is empty."""
    if not folder.is_dir():
        return
    remove_parts(folder)
    for path in folder.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in names:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def webp(image: Image.Image, lossless: bool) -> bytes:
    """Return the WebP of `image`."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=50 if lossless else QUALITY, lossless=lossless, method=4)
    return buffer.getvalue()


class Sheets:
    """Sheets that fill with sprites, photographs in lossy ones and masks in lossless ones.

    Only the two that are being filled are held as pixels.

    Attributes:
        pictures: one a sheet; None for one that is being filled.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pictures: list[Picture | None] = []
        self.open: dict[bool, Sheet] = {}

    def add(self, pixels: np.ndarray, lossless: bool) -> Sprite:
        """Put `pixels` (H, W, 3) uint8 of at most `SHEET` a side onto a sheet; return where they are."""
        height, width = pixels.shape[:2]
        sheet = self.open.get(lossless)
        place = sheet.place(height, width) if sheet else None
        if sheet is None or place is None:
            self.close(lossless)
            sheet = self.open[lossless] = Sheet(len(self.pictures))
            self.pictures.append(None)
            place = sheet.place(height, width)
        assert place is not None  # an empty sheet has room
        x, y = place
        sheet.pixels[y : y + height, x : x + width] = pixels
        return Sprite(sheet.index, x, y, width, height)

    def close(self, lossless: bool) -> None:
        """Encode the sheet that is being filled."""
        sheet = self.open.pop(lossless, None)
        if sheet:
            kind = "masks" if lossless else "images"
            used = Image.fromarray(sheet.pixels[: sheet.bottom, : sheet.right])
            self.pictures[sheet.index] = self.store.picture(used, f"sheet of {kind}", lossless)

    def finished(self) -> list[Picture]:
        """Return the pictures of all sheets."""
        for lossless in list(self.open):
            self.close(lossless)
        return [picture for picture in self.pictures if picture]


class Sheet:
    """One sheet, filled in rows from left to right.

    Attributes:
        index: which of the page's sheets it is.
        pixels: (SHEET, SHEET, 3) uint8.
        right: how far it is used.
        bottom: how far down the row that is being filled reaches.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.pixels = np.zeros((SHEET, SHEET, 3), dtype=np.uint8)
        self.x = self.y = self.right = self.bottom = 0

    def place(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the corner (x, y) of a free rectangle, None when there is none; it is taken from now on."""
        if self.x + width > SHEET:
            self.x, self.y = 0, on_grain(self.bottom)
        if self.y + height > SHEET:
            return None
        corner = self.x, self.y
        self.right, self.bottom = max(self.right, self.x + width), max(self.bottom, self.y + height)
        self.x = on_grain(self.x + width)
        return corner


def on_grain(length: int) -> int:
    """Return `length` rounded up to `GRAIN`."""
    return -(-length // GRAIN) * GRAIN


def size_within(width: int, height: int, most: int) -> tuple[int, int]:
    """Return (width, height) shrunk so that neither is more than `most`."""
    ratio = min(1.0, most / max(width, height))
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def scaled(image: Image.Image, most: int) -> Image.Image:
    """Return `image` shrunk so that no side has more than `most` pixels."""
    size = size_within(*image.size, most)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
