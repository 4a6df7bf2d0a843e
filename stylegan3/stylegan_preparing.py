"""Making images alike: crop, resize, and PNG files in a folder or zip that appears when it is whole."""

import io
import json
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from stylegan_errors import StyleganError
from stylegan_files import PART, sole_writer, told_of
from stylegan_images import channels_of, pixels_of, size_fault

T = TypeVar("T")
R = TypeVar("R")

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
AHEAD = 4  # images that each thread may be ahead of the writer


@dataclass(frozen=True)
class Recipe:
    """What becomes of every image.

    Attributes:
        transform: None, "center-crop" or "center-crop-wide".
        size: (width, height) to resize to, if at all.
        resize_filter: one of `FILTERS`.
    """

    transform: str | None
    size: tuple[int, int] | None
    resize_filter: str

    @property
    def outcome(self) -> tuple[int, int] | None:
        """The size (width, height) of all images that this makes, if the recipe alone tells it."""
        return (self.size[0], self.size[0]) if self.size and self.transform == "center-crop-wide" else self.size


def center_box(size: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centred rectangle (left, top, right, bottom) in `size` with the proportions of `shape`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = round(shape[0] * scale), round(shape[1] * scale)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def prepared(image: Image.Image, recipe: Recipe) -> Image.Image | None:
    """Return `image` (mode L or RGB) as `recipe` would have it, or None if it is too small for a wide crop.

    center-crop takes the largest square in the middle. center-crop-wide takes the largest rectangle of the
    resolution's proportions, which must not be smaller than the resolution, and puts it on a black square.
    """
    if recipe.transform == "center-crop":
        image = image.crop(center_box(image.size, (1, 1)))
    if recipe.size is None:
        return image
    if recipe.transform == "center-crop-wide":
        box = center_box(image.size, recipe.size)
        if box[2] - box[0] < recipe.size[0] or box[3] - box[1] < recipe.size[1]:
            return None
        image = image.crop(box)
    image = image.resize(recipe.size, FILTERS[recipe.resize_filter])
    if recipe.transform == "center-crop-wide":
        square = Image.new(image.mode, (recipe.size[0], recipe.size[0]))
        square.paste(image, (0, (recipe.size[0] - recipe.size[1]) // 2))
        return square
    return image


@dataclass
class Maker:
    """Turns image files into PNG files that are alike; the first one decides the channels, and the size if none is set.

    Attributes:
        recipe: what becomes of each.
        channels: 1 or 3.
        size: (width, height) that all must have in the end.
    """

    recipe: Recipe
    channels: int
    size: tuple[int, int]

    def png(self, image: Image.Image, where: str) -> bytes | None:
        """Return the `opened` image as an uncompressed PNG, or None if it is to be left out.

        Raises:
            StyleganError: it is damaged, or cannot be like the first.
        """
        if self.channels == 1 and channels_of(image) == 3:
            raise StyleganError(f"{where} is in colour; the first image is greyscale")
        pixels = pixels_of(image, where)
        plain = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        made = prepared(plain.convert("L" if self.channels == 1 else "RGB"), self.recipe)
        if made is None:
            return None
        if fault := size_fault(made.size):
            raise StyleganError(f"{where} {fault}")
        if made.size != self.size:
            told = " x ".join(map(str, made.size))
            raise StyleganError(f"{where} is {told} pixels; the first is {' x '.join(map(str, self.size))}")
        buffer = io.BytesIO()
        made.save(buffer, format="PNG", compress_level=0)
        return buffer.getvalue()


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `work` of each of `items` in their order, done by `threads` that keep but little ahead."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


Add = Callable[[str, bytes], None]


@contextmanager
def new_set(dest: Path) -> Iterator[Add]:
    """Yield what adds a file, by name and bytes, to the folder or .zip `dest`, which is there when the body ends well.

    It grows in `<dest>.part`; what a killed process left there is dropped. The same files make the same bytes.

    Raises:
        StyleganError: `dest` is there and not an empty folder, or another process is writing it.
    """
    refuse_existing(dest)
    part = dest.with_name(dest.name + PART)
    with sole_writer(part):
        whole = part / dest.name
        shutil.rmtree(whole, ignore_errors=True)
        try:
            with told_of(dest), zip_of(whole) if dest.suffix.lower() == ".zip" else folder_of(whole) as add:
                yield add
            whole.replace(dest)
        finally:
            shutil.rmtree(part)


def refuse_existing(dest: Path) -> None:
    """Raise `StyleganError` if `dest` is there and not an empty folder, or is the current one."""
    if dest.resolve() == Path.cwd():
        raise StyleganError(f"--dest: {dest} is the current folder; name another")
    if dest.suffix.lower() == ".zip" and dest.exists():
        raise StyleganError(f"--dest: {dest} is there already; delete it, or name another")
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise StyleganError(f"--dest: {dest} must be a new or empty folder, or a new .zip")


@contextmanager
def folder_of(path: Path) -> Iterator[Add]:
    """Yield what adds a file to the folder `path`."""
    path.mkdir()

    def add(name: str, content: bytes) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)

    yield add


@contextmanager
def zip_of(path: Path) -> Iterator[Add]:
    """Yield what adds a file to the zip `path`, stored: PNG is not compressed again, and is read by position."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            member = zipfile.ZipInfo(name)  # of 1980, whenever it is made
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)

        yield add


def labels_json(labels: list[tuple[str, object]] | None) -> bytes:
    """Return dataset.json for `labels` by file name, or for none."""
    return json.dumps({"labels": labels}).encode()
