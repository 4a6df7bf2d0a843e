"""Numbers that a network makes of images, a row for each, computed batch by batch and kept on disk.

While a set is computed its rows go into an array file in which what is not done yet is nan, so a killed run and its
continuation need no other memory. When all are there, the file becomes the `.npz` that researchers load.
"""

import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw
from aras.files import whole_file
from aras.loading import cuts, image_loader
from aras.training import memory_told

if TYPE_CHECKING:
    import torch

TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading an .npz raises when it is damaged or another file, by where the damage is."""

ROWS_AT_ONCE = 2048

Describe = Callable[[list[str], "torch.Tensor"], np.ndarray]
"""Names of B images, and M >= B of (H, W, 3) uint8 that begin with theirs -> rows (B, D) float32, nan for none."""


def rows_file(path: Path, key: str) -> Path:
    """Return the array file for what becomes the .npz at `path` under `key`; those of other keys are deleted."""
    rows = path.with_suffix(f".{key[:16]}.npy")
    for stale in path.parent.glob(f"{path.stem}.{'[0-9a-f]' * 16}.npy"):
        if stale != rows:
            stale.unlink()
    return rows


def begin_rows(rows: Path, shape: tuple[int, int]) -> None:
    """Write the array file `rows` of `shape` float32 that is nan throughout."""
    row = np.full(shape[1], np.nan, np.float32).tobytes()
    with whole_file(rows) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _ in range(shape[0]):
            file.write(row)


def lacking_rows(rows: Path) -> np.ndarray:
    """Return which rows of the array file `rows` are not written in full, (N,) bool.

    Raises:
        UserError: the file is cut off.
    """
    try:
        starts = range(0, len(np.load(rows, mmap_mode="r")), ROWS_AT_ONCE)
    except (EOFError, ValueError):
        raise UserError(f"{rows} is torn; delete it, and it is computed again") from None
    # Mapped anew for each block: pages of a lasting map would count as this process's memory.
    blocks = (np.load(rows, mmap_mode="r")[start : start + ROWS_AT_ONCE] for start in starts)
    return np.concatenate([np.isnan(block).any(axis=1) for block in blocks])


def fill_rows(
    rows: Path,
    images: ImageDraw,
    describe: Describe,
    refused: Callable[[tuple[int, int]], str | None],
    batch_size: int,
    workers: int,
    device: "torch.device",
) -> dict[str, str]:
    """Write the rows that the array file `rows` lacks; return why each image failed, by name.

    Args:
        rows: with a row for each of `images`.
        images: what to describe.
        describe: makes the rows of a batch.
        refused: returns why images of (height, width) cannot be described, None if they can.
        batch_size: images at once; the last batch is filled up with black ones.
        workers: processes that read images.
        device: where images are wanted.
    """
    import torch
    from tqdm import tqdm

    lacking = lacking_rows(rows)
    batches = [batch for batch in cuts(len(images), batch_size) if lacking[batch].any()]
    loader = image_loader(images.folder, images.names, batches, batch_size, workers, device)
    failures: dict[str, str] = {}
    with torch.inference_mode(), memory_told("lower --batch-size"):
        for groups, failed in tqdm(loader, desc=f"features of {images.name}", disable=None, unit="batch"):
            failures |= failed
            for names, pixels in groups:
                height, width = pixels.shape[1:3]
                reason = refused((height, width))
                if reason:
                    failures |= dict.fromkeys(names, reason)
                    continue
                np.load(rows, mmap_mode="r+")[np.searchsorted(images.names, names)] = describe(names, pixels)
    return failures


def end_rows(rows: Path, path: Path, name: str, more: Mapping[str, np.ndarray]) -> None:
    """Write the .npz at `path` with the array file `rows` as `name`, copied piece by piece, and `more`; delete it."""
    with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        with rows.open("rb") as source, archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            shutil.copyfileobj(source, member, 1 << 20)
        for other, array in more.items():
            with archive.open(zipfile.ZipInfo(f"{other}.npy"), "w") as member:
                np.lib.format.write_array(member, array)
    rows.unlink()
