"""Label a whole georeferenced raster, window by window, in the legend's colours.

Only one row of windows is in memory at a time, all across the raster, so memory does not grow with its height.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aras.errors import UserError
from aras.files import read_json
from aras.inference import probabilities_of
from aras.labelling import Labeller, bytes_of_confidence
from aras.legend import NO_DATA
from aras.patches import REFLECTANCE_MAX, linear_table
from aras.raster_files import CACHE, NO_CONFIDENCE, Target, unfinished_files
from aras.rasters import one_line
from aras.windows import RollingBlend, blend_weights, window_starts

RGB = [1, 2, 3]
"""The bands that are read: red, green, blue, in Sentinel-2 composites as in images; near infrared is the fourth."""


@dataclass(frozen=True)
class Windows:
    """How a raster is cut: sides and overlap in pixels, and how many windows go through the model at a time."""

    side: int
    overlap: int
    batch_size: int


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Yield the raster at `path`, open, after a look at what it holds.

    Raises:
        UserError: it is missing, cannot be opened, or is neither 8-bit RGB nor a composite of 16-bit reflectance.
    """
    import rasterio

    if not path.is_file():
        raise UserError(f"{path} is missing; check the path")
    with rasterio.Env(**CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            file = rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise UserError(f"{path} cannot be opened ({one_line(error)}); fetch or make it again") from None
    with rasterio.Env(**CACHE), file:
        kinds = set(file.dtypes[:3])
        if file.count < len(RGB) or kinds not in ({"uint8"}, {"uint16"}):
            raise UserError(
                f"{path} has {file.count} bands of {' and '.join(sorted(kinds))}; give red, green and blue of 8 bits,"
                " or of reflectance x 10000 in 16 bits (uint16)"
            )
        yield file


def has_reflectance(file: Any) -> bool:
    """Return whether an open raster holds reflectance rather than 8-bit colours."""
    return bool(file.dtypes[0] == "uint16")


def reflectance_max_of(weights: tuple[Path, ...]) -> int:
    """Return the reflectance x 10000 that is 255 in the images that `weights` were trained on.

    The run.json beside the weights tells the dataset, and that one's run.json the scale; where either is missing it is
    the default of dataset_creator.py.

    Raises:
        UserError: the dataset was not scaled like this, or the weights were trained on different scales.
    """
    found = set()
    for path in weights:
        data = told_option(path.with_name("run.json"), "data")
        dataset = Path(data or "") / "run.json"
        stretch = told_option(dataset, "stretch") if data else None
        if stretch not in (None, "reflectance"):
            raise UserError(f"{dataset} tells of --stretch {stretch}, which has no scale; give --reflectance-max")
        found.add(int(told_option(dataset, "reflectance_max") or REFLECTANCE_MAX) if data else REFLECTANCE_MAX)
    if len(found) > 1:
        raise UserError(f"the weights were trained on scales of {sorted(found)}; give --reflectance-max")
    return found.pop()


def told_option(record: Path, name: str) -> Any:
    """Return an option of the run that `record` (a run.json) tells of, None where it does not."""
    told = read_json(record) if record.is_file() else None
    options = told.get("options") if isinstance(told, dict) else None
    return options.get(name) if isinstance(options, dict) else None


def label_raster(target: Target, labeller: Labeller, windows: Windows, reflectance_max: int) -> None:
    """Write the labels of a raster, and its confidence if asked for, under a progress bar of window rows.

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
    file: Any, labeller: Labeller, windows: Windows, reflectance_max: int
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
    scale = linear_table(0, reflectance_max) if has_reflectance(file) else None
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
