"""Label a whole georeferenced raster, window by window, in the legend's colours.

Only one row of windows is in memory at a time, all across the raster, so memory does not grow with its height.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from aras.errors import UserError
from aras.inference import probabilities_of
from aras.labelling.images import Labeller, bytes_of_confidence
from aras.labelling.raster_files import NO_CONFIDENCE, RGB, open_raster, unfinished_files
from aras.labelling.raster_targets import Target
from aras.labelling.windows import RollingBlend, blend_weights, window_starts
from aras.legend import NO_DATA
from aras.patches import linear_table
from aras.rasters import one_line


@dataclass(frozen=True)
class Windows:
    """How a raster is cut: sides and overlap in pixels, and how many windows go through the model at a time."""

    side: int
    overlap: int
    batch_size: int


def label_raster(target: Target, labeller: Labeller, windows: Windows, reflectance_max: int | None) -> None:
    """Write the labels of a raster, and its confidence if asked for, under a progress bar of window rows.

    Values become 8 bits so that `reflectance_max` is 255; without it they are 8 bits already.

    Raises:
        UserError: the raster cannot be read, or a model cannot take windows of that size.
    """
    import torch
    from tqdm import tqdm

    with (
        open_raster(target.raster) as file,
        unfinished_files(target, file, labeller.maps) as written,
        torch.inference_mode(),
    ):
        rows = labelled_rows(file, labeller, windows, reflectance_max)
        count = len(window_starts(file.height, windows.side, windows.overlap))
        for top, *bands in tqdm(rows, desc=target.raster.name, total=count, disable=None, unit="row"):
            for band, out in zip(bands, written, strict=False):
                out.write(top, band)


def labelled_rows(
    file: Any, labeller: Labeller, windows: Windows, reflectance_max: int | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the top row, labels (H, W) uint8 and confidence (H, W) uint8 of one band of finished rows after another."""
    import torch

    size = (min(windows.side, file.height), min(windows.side, file.width))
    labeller.check_takes(size)
    tops, lefts = (window_starts(length, windows.side, windows.overlap) for length in file.shape)
    down, across = (
        torch.from_numpy(blend_weights(length, windows.side, windows.overlap)).to(labeller.device)
        for length in file.shape
    )
    scale = linear_table(0, reflectance_max) if reflectance_max else None
    blend = RollingBlend(size[0], file.width, labeller.device)
    for top, end, down_here in zip(tops, [*tops[1:], file.height], down, strict=True):
        pixels, there = read_rows(file, top, size[0], scale)
        seen = [n for n, left in enumerate(lefts) if there[:, left : left + size[1]].any()]
        for first in range(0, len(seen), windows.batch_size):
            some = seen[first : first + windows.batch_size]
            images = np.stack([pixels[:, lefts[n] : lefts[n] + size[1]] for n in some])
            found = probabilities_of(labeller.models, torch.from_numpy(images), labeller.device, labeller.symmetries)
            for n, probabilities in zip(some, found, strict=True):
                blend.add(lefts[n], probabilities, down_here[:, None] * across[n])
        labels, confidence = blend.take(end - top)
        there = there[: end - top]
        yield (
            top,
            np.where(there, labels.cpu().numpy(), NO_DATA).astype(np.uint8),
            np.where(there, bytes_of_confidence(confidence).cpu().numpy(), NO_CONFIDENCE).astype(np.uint8),
        )


def read_rows(file: Any, top: int, rows: int, scale: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return `rows` rows of an open raster as pixels (rows, W, 3) uint8 RGB, and where there is data (rows, W).

    There is none where red, green and blue are all 0, and where the file's own no-data value, mask or alpha says so.

    Raises:
        UserError: the file is truncated or damaged there.
    """
    import rasterio

    window = ((top, top + rows), (0, file.width))
    try:
        pixels = file.read(RGB, window=window)  # (3, rows, W)
        there = pixels.any(axis=0) & (file.dataset_mask(window=window) > 0)
    except rasterio.errors.RasterioIOError as error:
        raise UserError(f"{file.name} is damaged or cut short ({one_line(error)}); fetch or make it again") from None
    if scale is not None:
        pixels = scale[pixels]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), there
